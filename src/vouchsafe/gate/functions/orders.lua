-- Purpose: what an order has of a code: a redemption, or a hold, which is a reservation, a part of a transaction, or
--          both. A reservation ends by itself: whoever looks at its campaign behind its time finds it given back.
-- KEYS:    none; this file registers no function. Those that use it take 5 keys for each campaign: campaign, counters,
--          orders, holds, stops.
-- ARGV:    none.
-- Returns: nothing.
-- Writes:  what a function loads a campaign for: the counters, orders, holds and events of reservations whose time is
--          over.

local KEYS_PER_CAMPAIGN = 5

-- More than so many reservations are not given back in one call: nobody else is served meanwhile.
local EXPIRED_AT_ONCE = 200

-- A field of `orders` is "R", fingerprint and place for a redemption; for a hold "H" and a packed table of
--   fingerprint  of the request
--   takes        as counters.lua reads them
--   body         of the event to come, a JSON object
--   taken_ms     when
--   transaction  that it is a part of, '' for none
--   deadline_ms  of the transaction
--   reservation  that it belongs to, '' for none
--   expire_ms    of the reservation
local HOLD_FIELDS =
  { 'fingerprint', 'takes', 'body', 'taken_ms', 'transaction', 'deadline_ms', 'reservation', 'expire_ms' }

local function read_standing(campaign, order)
  local text = redis.call('HGET', campaign.orders, order)
  if not text then
    return nil
  end
  if text:sub(1, 1) == 'R' then
    return { fingerprint = text:sub(2, 1 + FINGERPRINT_LENGTH), place = text:sub(2 + FINGERPRINT_LENGTH) }
  end
  local hold = { held = true }
  for i, value in ipairs(cmsgpack.unpack(text:sub(2))) do
    hold[HOLD_FIELDS[i]] = value
  end
  return hold
end

local function keep_redeemed(campaign, order, fingerprint, place)
  redis.call('HSET', campaign.orders, order, 'R' .. fingerprint .. place)
end

-- A part of a transaction waits for its decision; only what is no such part ends by its time.
local function keep_hold(campaign, order, hold)
  local packed = {}
  for i, name in ipairs(HOLD_FIELDS) do
    packed[i] = hold[name]
  end
  redis.call('HSET', campaign.orders, order, 'H' .. cmsgpack.pack(packed))
  if hold.transaction == '' then
    redis.call('ZADD', campaign.holds, hold.expire_ms, order)
  elseif hold.reservation ~= '' then
    redis.call('ZREM', campaign.holds, order)
  end
end

-- All that a hold counts.
local function counted(hold)
  local takes = parse_takes(hold.takes)
  for _, take in ipairs(held_takes(takes)) do
    takes[#takes + 1] = take
  end
  return takes
end

-- The body of an event that a hold ends with: it tells when the use was taken, which is not when it ends. `more` is what
-- else there is to say.
local function ending_body(hold, more)
  return table.concat({ hold.body:sub(1, -2), ',"taken_ms":', integer(hold.taken_ms), more or '', '}' })
end

-- Ends a hold: what it counted comes back. Only reservations have events, `kind` says why this one ends; `more` as for
-- ending_body.
local function give_up(campaign, order, hold, kind, now, more)
  local takes = counted(hold)
  local counters = load_counters(campaign.counters, now, { takes })
  change_counters(counters, takes, -1, hold.taken_ms)
  store_counters(counters)
  redis.call('HDEL', campaign.orders, order)
  if hold.reservation ~= '' then
    redis.call('ZREM', campaign.holds, order)
    add_event(campaign.outbox, kind, campaign.id, ending_body(hold, more), now)
  end
end

local function campaign_at(keys, first, id, outbox)
  return {
    id = id,
    key = keys[first],
    counters = keys[first + 1],
    orders = keys[first + 2],
    holds = keys[first + 3],
    stops = keys[first + 4],
    outbox = outbox,
  }
end

-- A campaign's hash has a field "disabled <code>" for each of its codes that is disabled, and `disabled` says how many.
local function is_disabled(campaign, order)
  return campaign.has_disabled and redis.call('HEXISTS', campaign.key, 'disabled ' .. order:match('%S+$')) == 1
end

-- One campaign as it stands; nil when it is not all there: then nothing may be decided.
local function read_campaign(keys, first, id, outbox)
  local fields = redis.call('HMGET', keys[first], 'version', 'state', 'disabled')
  local uses = redis.call('HEXISTS', keys[first + 1], 'uses')
  if not fields[1] or not fields[2] or uses == 0 then
    return nil
  end
  local campaign = campaign_at(keys, first, id, outbox)
  campaign.version = fields[1]
  campaign.state = fields[2]
  campaign.may_be_stopped = redis.call('EXISTS', campaign.stops) == 1
  campaign.has_disabled = (fields[3] or '0') ~= '0'
  return campaign
end

-- One campaign as of this call, without the reservations whose time is over; nil as for read_campaign. `is_crowded`: there
-- are more of those than there is `room` for in this call, so nothing may be decided yet. Answers also how much room is
-- left.
local function load_campaign(keys, first, id, outbox, now, room)
  local campaign = read_campaign(keys, first, id, outbox)
  if not campaign then
    return nil
  end
  local expired =
    redis.call('ZRANGE', campaign.holds, '-inf', integer(now), 'BYSCORE', 'LIMIT', 0, room + 1)
  campaign.is_crowded = #expired > room
  for i = 1, math.min(#expired, room) do
    give_up(campaign, expired[i], read_standing(campaign, expired[i]), 'expired', now)
  end
  return campaign, room - math.min(#expired, room)
end

-- `count` campaigns with their keys from keys[first] and their ids from args[at] on.
local function load_campaigns(keys, first, args, at, count, outbox, now)
  local campaigns, room = {}, EXPIRED_AT_ONCE
  for i = 1, count do
    local campaign, left = load_campaign(keys, first + (i - 1) * KEYS_PER_CAMPAIGN, args[at + i - 1], outbox, now, room)
    campaigns[i], room = campaign, left or room
  end
  return campaigns
end
