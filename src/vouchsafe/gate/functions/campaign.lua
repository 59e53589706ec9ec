-- Purpose: a campaign's hot state: publish enters a definition, set_state pauses or resumes, describe reads.
-- KEYS:    1 meta
--          publish: 2 campaign, 3 counters
--          set_state: 2 outbox, 3 campaign, 4 counters, 5 pending
--          describe: then for each campaign asked for 2: campaign, counters
-- ARGV:    1 token
--          publish: 2 version, 3 definition, 4 created_ms, 5 state ("active" or "paused") and 6 pause_reason of a
--            campaign that is new here
--          set_state: 2 campaign id, 3 state ("active" or "paused"), 4 reason, 5 kind and 6 body of the event
-- Returns: publish: 1 when the definition was taken, 0 when this version or a later one stands already.
--          set_state: the campaign's fields in the order of FIELDS, its uses, its money, its different customers ('' where
--            nobody counts them) and the time in ms; or false when there is none; or, when it stops a campaign of which parts of transactions are held, the list of those parts, each
--            as pending names it: it admits nothing any more then, but the event is only written once they are settled.
--          describe: as set_state for each campaign.
-- Writes:  publish: campaign and counters; never the counters or the state of one that stands.
--          set_state: campaign and one event, unless the campaign is in that state already.

local FIELDS = { 'version', 'definition', 'created_ms', 'state', 'pause_reason' }

local function describe(key, counters)
  local fields = redis.call('HMGET', key, unpack(FIELDS))
  if not fields[1] then
    return false
  end
  -- A campaign that is being stopped admits nothing any more.
  fields[4] = fields[4] == 'active' and 'active' or 'paused'
  local given = redis.call('HMGET', counters, 'uses', 'money', '?customer')
  fields[6] = given[1] or '0'
  fields[7] = given[2] or '0'
  fields[8] = given[3] or ''
  fields[9] = integer(now_ms())
  return fields
end

-- The parts of transactions that are held of a campaign.
local function held_parts(pending, campaign_id)
  local parts = {}
  for _, part in ipairs(redis.call('ZRANGE', pending, 0, -1)) do
    if part:sub(1, #campaign_id + 1) == campaign_id .. ' ' then
      parts[#parts + 1] = part
    end
  end
  return parts
end

register('publish', function(keys, args)
  local standing = tonumber(redis.call('HGET', keys[2], 'version') or 0)
  if standing >= tonumber(args[2]) then
    return 0
  end
  redis.call(
    'HSET', keys[2],
    'version', args[2], 'definition', args[3], 'created_ms', args[4]
  )
  if standing == 0 then
    redis.call('HSETNX', keys[3], 'uses', 0)
  end
  redis.call('HSETNX', keys[2], 'state', args[5])
  redis.call('HSETNX', keys[2], 'pause_reason', args[6])
  return 1
end)

register('set_state', function(keys, args)
  local state = redis.call('HGET', keys[3], 'state')
  if not state then
    return false
  end
  if state ~= args[3] then
    if args[3] == 'paused' then
      local parts = held_parts(keys[5], args[2])
      if #parts > 0 then
        redis.call('HSET', keys[3], 'state', 'pausing', 'pause_reason', args[4])
        return { parts }
      end
    end
    redis.call('HSET', keys[3], 'state', args[3], 'pause_reason', args[4])
    redis.call(
      'XADD', keys[2], '*',
      'kind', args[5], 'at', integer(now_ms()), 'campaign', args[2], 'body', args[6]
    )
  end
  return describe(keys[3], keys[4])
end, { 'allow-oom' }) -- a full store must still be stoppable

register('describe', function(keys)
  local campaigns = {}
  for i = 2, #keys, 2 do
    campaigns[#campaigns + 1] = describe(keys[i], keys[i + 1])
  end
  return campaigns
end, { 'no-writes' })
