-- Purpose: a campaign's hot state: publish enters a definition, set_state pauses or resumes, describe reads.
-- KEYS:    1 meta
--          publish: 2 campaign
--          set_state: 2 outbox, 3 campaign
--          describe: then one campaign for each asked for
-- ARGV:    1 token
--          publish: 2 version, 3 definition, 4 created_ms, 5 limit_total and 6 limit_per_customer ('' for none),
--            7 state ("active" or "paused") and 8 pause_reason of a campaign that is new here
--          set_state: 2 campaign id, 3 state ("active" or "paused"), 4 reason, 5 kind and 6 body of the event
-- Returns: publish: 1 when the definition was taken, 0 when this version or a later one stands already.
--          set_state: the campaign's fields in the order of FIELDS and the time in ms, or false when there is none.
--          describe: the same for each campaign.
-- Writes:  publish: campaign; never the counter or the state of one that stands.
--          set_state: campaign and one event, unless the campaign is in that state already.

local FIELDS = { 'version', 'definition', 'created_ms', 'state', 'pause_reason', 'used' }

local function describe(key)
  local fields = redis.call('HMGET', key, unpack(FIELDS))
  if not fields[1] then
    return false
  end
  fields[#FIELDS + 1] = integer(now_ms())
  return fields
end

register('publish', function(keys, args)
  local standing = tonumber(redis.call('HGET', keys[2], 'version') or 0)
  if standing >= tonumber(args[2]) then
    return 0
  end
  redis.call(
    'HSET', keys[2],
    'version', args[2], 'definition', args[3], 'created_ms', args[4],
    'limit_total', args[5], 'limit_per_customer', args[6]
  )
  redis.call('HSETNX', keys[2], 'used', 0)
  redis.call('HSETNX', keys[2], 'state', args[7])
  redis.call('HSETNX', keys[2], 'pause_reason', args[8])
  return 1
end)

register('set_state', function(keys, args)
  local state = redis.call('HGET', keys[3], 'state')
  if not state then
    return false
  end
  if state ~= args[3] then
    redis.call('HSET', keys[3], 'state', args[3], 'pause_reason', args[4])
    redis.call(
      'XADD', keys[2], '*',
      'kind', args[5], 'at', integer(now_ms()), 'campaign', args[2], 'body', args[6]
    )
  end
  return describe(keys[3])
end, { 'allow-oom' }) -- a full store must still be stoppable

register('describe', function(keys)
  local campaigns = {}
  for i = 2, #keys do
    campaigns[i - 1] = describe(keys[i])
  end
  return campaigns
end, { 'no-writes' })
