-- Purpose: the counters of a campaign: what a use takes of them, and what comes back when it is undone.
-- KEYS:    none; this file registers no function. Counters are the fields of one hash for each campaign.
-- ARGV:    none; the functions that use this take lists of takes: texts of groups of four words, "<counter> <amount>
--          <cap, - for none> <reason of the refusal at the cap>". A counter "?x:y" is the number of different y whose
--          counter "x:y", before it in the same list, is above zero; it is kept as "?x". A counter "~x" keeps the
--          moments of its uses, of which those of the last <amount> milliseconds count.
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

-- What a hold counts beside its takes: that it is one, and what it would take off.
local function held_takes(takes)
  local money = 0
  for _, take in ipairs(takes) do
    if take.field == 'money' then
      money = take.amount
    end
  end
  return { { field = 'held', amount = 1 }, { field = 'held_money', amount = money } }
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

-- The counters that lists of takes are about, as they are now: to be changed here and then stored, or dropped.
local function load_counters(key, now, lists)
  local fields, takes = {}, {}
  for _, list in ipairs(lists) do
    for _, take in ipairs(list) do
      fields[#fields + 1] = take.field
      takes[#takes + 1] = take
    end
  end
  local found = redis.call('HMGET', key, unpack(fields))
  local values = {}
  for i, take in ipairs(takes) do
    if take.moments then
      values[take.field] = recent(found[i] or '', now - take.amount)
    else
      values[take.field] = tonumber(found[i] or 0)
    end
  end
  return { key = key, values = values, changed = {} }
end

-- Why not all of the takes fit, the first by their order, or nil when they do.
local function misfit(counters, takes)
  local values = counters.values
  for _, take in ipairs(takes) do
    if take.cap then
      local used, more = values[take.field], take.amount
      if take.moments then
        used, more = #used, 1
      elseif take.of and values[take.of] > 0 then
        more = 0
      end
      if more > 0 and used + more > take.cap then
        return refuse(take.reason, 'limit=' .. integer(take.cap), 'used=' .. integer(used))
      end
    end
  end
  return nil
end

local function remove_moment(moments, at)
  for i, moment in ipairs(moments) do
    if moment == at then
      table.remove(moments, i)
      return
    end
  end
end

-- Adds the takes once (sign 1), or gives them back (sign -1); `at` is the moment in ms at which they were taken.
local function change_counters(counters, takes, sign, at)
  local values, changed = counters.values, counters.changed
  for _, take in ipairs(takes) do
    local field = take.field
    if take.moments then
      local moments = values[field]
      if sign > 0 then
        moments[#moments + 1] = integer(at)
      else
        remove_moment(moments, integer(at))
      end
    elseif take.of then
      -- The first use of one makes it count, and giving back the last makes it not.
      if values[take.of] == (sign > 0 and 1 or 0) then
        values[field] = values[field] + sign
      end
    else
      values[field] = values[field] + sign * take.amount
    end
    changed[field] = true
  end
end

-- A counter that nobody uses any more is no field, but for `uses`, which tells a hash that is there from one that is
-- lost.
local function store_counters(counters)
  local writes, gone = {}, {}
  for field in pairs(counters.changed) do
    local value = counters.values[field]
    local is_kept
    if type(value) == 'table' then
      is_kept = #value > 0
      value = table.concat(value, ' ')
    else
      is_kept = value > 0 or field == 'uses'
      value = integer(value)
    end
    if is_kept then
      writes[#writes + 1] = field
      writes[#writes + 1] = value
    else
      gone[#gone + 1] = field
    end
  end
  if #writes > 0 then
    redis.call('HSET', counters.key, unpack(writes))
  end
  if #gone > 0 then
    redis.call('HDEL', counters.key, unpack(gone))
  end
end
