-- Purpose: a campaign's hot state: publish enters a definition, set_state pauses or resumes, describe reads; definition
--          reads only what never changes of a version.
-- KEYS:    1 meta
--          publish: 2 campaign, 3 counters, 4 labels
--          set_state: 2 outbox, 3 pending, 4 to 8 as for each campaign in orders.lua
--          describe: 2 outbox, then for each campaign asked for 5 (orders.lua)
--          definition: then for each campaign asked for its campaign
-- ARGV:    1 token
--          publish: 2 version, 3 definition, 4 created_ms, 5 labels with spaces between them, 6 campaign id, 7 state
--            ("active" or "paused") and 8 pause_reason of a campaign that is new here
--          set_state: 2 campaign id, 3 state ("active" or "paused"), 4 reason, 5 kind and 6 body of the event
--          describe: then the id of each campaign
-- Returns: publish: 1 when the definition was taken, 0 when this version or a later one stands already.
--          set_state: the campaign's fields in the order of FIELDS, then those of COUNTED ('' for one that is not
--            counted), then the time in ms; or false when there is none; or, when it stops a campaign of which parts of
--            transactions are held, the list of those parts, each as pending names it: it admits nothing any more then,
--            but the event is only written once they are settled.
--          describe: as set_state for each campaign.
--          definition: for each campaign version, definition and created_ms, or false when there is none.
-- Writes:  publish: campaign, counters and labels; never the counters or the state of one that stands.
--          set_state: campaign and one event, unless the campaign is in that state already.
--          set_state and describe: what loading a campaign writes (orders.lua).
--          definition: nothing, and Valkey holds it to that.

local FIELDS = { 'version', 'definition', 'created_ms', 'state', 'pause_reason' }
local COUNTED = { 'uses', 'money', '?distinct', 'held', 'held_money' }

-- Reservations whose time is over do not count; while there are very many of them, some still do.
local function describe(keys, first, id, outbox, now, room)
  local campaign, left = load_campaign(keys, first, id, outbox, now, room)
  if not campaign then
    return false, room
  end
  local described = redis.call('HMGET', keys[first], unpack(FIELDS))
  -- A campaign that is being stopped admits nothing any more.
  described[4] = described[4] == 'active' and 'active' or 'paused'
  for _, value in ipairs(redis.call('HMGET', keys[first + 1], unpack(COUNTED))) do
    described[#described + 1] = value or ''
  end
  described[#described + 1] = integer(now)
  return described, left
end

-- The parts of transactions that are held and concern something that stops: `concerns` is asked with campaign and code.
local function held_parts(pending, concerns)
  local parts = {}
  for _, part in ipairs(redis.call('ZRANGE', pending, 0, -1)) do
    local campaign_id, code = part:match('^(%S+) %S+ (%S+)')
    if concerns(campaign_id, code) then
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
    'version', args[2], 'definition', args[3], 'created_ms', args[4], 'labels', args[5]
  )
  if args[5] ~= '' then
    redis.call('HSET', keys[4], args[6], args[5])
  else
    redis.call('HDEL', keys[4], args[6])
  end
  if standing == 0 then
    redis.call('HSETNX', keys[3], 'uses', 0)
  end
  redis.call('HSETNX', keys[2], 'state', args[7])
  redis.call('HSETNX', keys[2], 'pause_reason', args[8])
  return 1
end)

register('set_state', function(keys, args)
  local now = now_ms()
  local campaign = keys[4]
  local state = redis.call('HGET', campaign, 'state')
  if not state then
    return false
  end
  if state ~= args[3] then
    if args[3] == 'paused' then
      local parts = held_parts(keys[3], function(campaign_id)
        return campaign_id == args[2]
      end)
      if #parts > 0 then
        redis.call('HSET', campaign, 'state', 'pausing', 'pause_reason', args[4])
        return { parts }
      end
    end
    redis.call('HSET', campaign, 'state', args[3], 'pause_reason', args[4])
    add_event(keys[2], args[5], args[2], args[6], now)
  end
  return (describe(keys, 4, args[2], keys[2], now, EXPIRED_AT_ONCE))
end, { 'allow-oom' }) -- a full store must still be stoppable

register('describe', function(keys, args)
  local now = now_ms()
  local campaigns, room = {}, EXPIRED_AT_ONCE
  for i = 2, #args do
    campaigns[i - 1], room = describe(keys, 3 + (i - 2) * KEYS_PER_CAMPAIGN, args[i], keys[2], now, room)
  end
  return campaigns
end, { 'allow-oom' }) -- it only gives back

register('definition', function(keys)
  local found = {}
  for i = 2, #keys do
    local fields = redis.call('HMGET', keys[i], 'version', 'definition', 'created_ms')
    found[i - 1] = fields[1] and fields
  end
  return found
end, { 'no-writes' })
