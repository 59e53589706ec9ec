-- Purpose: the counters of a campaign: what a use takes of them, and what comes back when it is undone.
-- KEYS:    none; this file registers no function. Counters are the fields of one hash for each campaign.
-- ARGV:    none; the functions that use this take lists of takes: texts of groups of four words, "<field> <amount>
--          <cap, - for none> <reason of the refusal at the cap>".
-- Returns: nothing.
-- Writes:  nothing; `store_counters` writes the hash, and only what has changed.

local function parse_takes(text)
  local takes = {}
  for field, amount, cap, reason in text:gmatch('(%S+) (%S+) (%S+) (%S+)') do
    takes[#takes + 1] = {
      field = field,
      amount = tonumber(amount),
      cap = tonumber(cap), -- nil for none
      reason = reason,
    }
  end
  return takes
end

-- The counters that some takes are about, as they are now.
local function load_counters(key, takes)
  local fields = {}
  for i, take in ipairs(takes) do
    fields[i] = take.field
  end
  local values = redis.call('HMGET', key, unpack(fields))
  local counters = {}
  for i, field in ipairs(fields) do
    counters[field] = tonumber(values[i] or 0)
  end
  return counters
end

-- Why not all of the takes fit, the first by their order, or nil when they do.
local function misfit(counters, takes)
  for _, take in ipairs(takes) do
    local used = counters[take.field]
    if take.cap and used + take.amount > take.cap then
      return refuse(take.reason, 'limit=' .. integer(take.cap), 'used=' .. integer(used))
    end
  end
  return nil
end

-- Adds the takes once (sign 1), or gives them back (sign -1). A counter that nobody uses any more is no field, but for
-- `uses`, which tells a hash that is there from one that is lost.
local function store_counters(key, counters, takes, sign)
  local writes = {}
  local gone = {}
  for _, take in ipairs(takes) do
    local value = counters[take.field] + sign * take.amount
    if value > 0 or take.field == 'uses' then
      writes[#writes + 1] = take.field
      writes[#writes + 1] = integer(value)
    else
      gone[#gone + 1] = take.field
    end
  end
  if #writes > 0 then
    redis.call('HSET', key, unpack(writes))
  end
  if #gone > 0 then
    redis.call('HDEL', key, unpack(gone))
  end
end
