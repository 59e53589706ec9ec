-- Purpose: the counters of a campaign: what a use takes of them, and what comes back when it is undone.
-- KEYS:    none; this file registers no function. Counters are the fields of one hash for each campaign.
-- ARGV:    none; the functions that use this take lists of takes: texts of groups of four words, "<counter> <amount>
--          <cap, - for none> <reason of the refusal at the cap>". A counter "?x:y" is the number of different y whose
--          counter "x:y", in the same list, is above zero; it is kept as "?x". A counter "~x" keeps the moments of its
--          uses, of which those of the last <amount> milliseconds count.
-- Returns: nothing.
-- Writes:  nothing; `store_counters` writes the hash, and only what has changed.

local DISTINCT, MOMENTS = 63, 126 -- the bytes of ? and ~

local function parse_takes(text)
  local takes = {}
  for field, amount, cap, reason in text:gmatch('(%S+) (%S+) (%S+) (%S+)') do
    local take = { field = field, amount = tonumber(amount), cap = tonumber(cap), reason = reason } -- cap nil for none
    local mark = field:byte()
    if mark == DISTINCT then
      take.of = field:sub(2)
      take.field = field:match('^[^:]*')
    elseif mark == MOMENTS then
      take.moments = true
    end
    takes[#takes + 1] = take
  end
  return takes
end

-- The moments that count, out of "<ms> <ms> ...".
local function recent(text, since)
  local moments = {}
  for moment in text:gmatch('%d+') do
    if tonumber(moment) > since then
      moments[#moments + 1] = moment
    end
  end
  return moments
end

-- The counters that some takes are about, as they are now.
local function load_counters(key, takes, now)
  local fields = {}
  for i, take in ipairs(takes) do
    fields[i] = take.field
  end
  local values = redis.call('HMGET', key, unpack(fields))
  local counters = {}
  for i, take in ipairs(takes) do
    if take.moments then
      counters[take.field] = recent(values[i] or '', now - take.amount)
    else
      counters[take.field] = tonumber(values[i] or 0)
    end
  end
  return counters
end

-- Why not all of the takes fit, the first by their order, or nil when they do.
local function misfit(counters, takes)
  for _, take in ipairs(takes) do
    if take.cap then
      local used, more = counters[take.field], take.amount
      if take.moments then
        used, more = #used, 1
      elseif take.of and counters[take.of] > 0 then
        more = 0
      end
      if more > 0 and used + more > take.cap then
        return refuse(take.reason, 'limit=' .. integer(take.cap), 'used=' .. integer(used))
      end
    end
  end
  return nil
end

-- Adds the takes once (sign 1), or gives them back (sign -1); `at` is the moment in ms at which they were taken. A
-- counter that nobody uses any more is no field, but for `uses`, which tells a hash that is there from one that is lost.
local function store_counters(key, counters, takes, sign, at)
  local writes = {}
  local gone = {}
  local function put(field, value, is_kept)
    if is_kept then
      writes[#writes + 1] = field
      writes[#writes + 1] = value
    else
      gone[#gone + 1] = field
    end
  end
  for _, take in ipairs(takes) do
    local value = counters[take.field]
    if take.moments then
      if sign > 0 then
        value[#value + 1] = integer(at)
      else
        for i, moment in ipairs(value) do
          if moment == integer(at) then
            table.remove(value, i)
            break
          end
        end
      end
      put(take.field, table.concat(value, ' '), #value > 0)
    else
      local change = sign * take.amount
      if take.of then
        -- The first use of one makes it count, and giving back the last makes it not.
        local others = counters[take.of] - (sign < 0 and 1 or 0)
        change = others == 0 and sign or 0
      end
      put(take.field, integer(value + change), value + change > 0 or take.field == 'uses')
    end
  end
  if #writes > 0 then
    redis.call('HSET', key, unpack(writes))
  end
  if #gone > 0 then
    redis.call('HDEL', key, unpack(gone))
  end
end
