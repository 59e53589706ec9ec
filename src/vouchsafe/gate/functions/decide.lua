-- Purpose: the checks that redeem, hold and validate share. Nothing here writes.
-- KEYS:    none; this file registers no function. Those functions take 3 keys for each campaign: campaign, counters,
--          orders.
-- ARGV:    none; those functions take the values of an item that read_item names.
-- Returns: nothing.
-- Writes:  nothing.

local KEYS_PER_CAMPAIGN = 3

-- An item is ITEM_FIELDS values, in this order.
local ITEM_FIELDS = 10

local function read_item(args, at)
  return {
    campaign = tonumber(args[at]), -- index of its campaign, from 1
    version = args[at + 1], -- that it was judged by
    fingerprint = args[at + 2], -- of the request
    order = args[at + 3], -- "<order id> <code>"
    takes = args[at + 4], -- as counters.lua reads them
    refusal = args[at + 5], -- what the rules object to, '' for nothing
    from_ms = tonumber(args[at + 6]), -- from when that is true
    until_ms = tonumber(args[at + 7]), -- until before when
    digest = args[at + 8], -- of the body
    body = args[at + 9], -- of the event
  }
end

-- The state of one campaign as of this call, or nil when it is not all there: then nothing may be decided.
local function load_campaign(keys, first)
  local fields = redis.call('HMGET', keys[first], 'version', 'state')
  local uses = redis.call('HEXISTS', keys[first + 1], 'uses')
  if not fields[1] or not fields[2] or uses == 0 then
    return nil
  end
  return {
    counters = keys[first + 1],
    orders = keys[first + 2],
    version = fields[1],
    active = fields[2] == 'active',
  }
end

local function load_campaigns(keys, first, count)
  local campaigns = {}
  for i = 1, count do
    campaigns[i] = load_campaign(keys, first + (i - 1) * KEYS_PER_CAMPAIGN)
  end
  return campaigns
end

-- What an order has of a code is one field of `orders`. Redeemed: "R", fingerprint, place. Held as a part of several
-- codes: "H" and a packed table of fingerprint, transaction, deadline in ms, takes, body of the event to come, and when
-- it was taken in ms.
local function read_standing(text)
  if not text then
    return nil
  end
  if text:sub(1, 1) == 'R' then
    return { fingerprint = text:sub(2, 1 + FINGERPRINT_LENGTH), place = text:sub(2 + FINGERPRINT_LENGTH) }
  end
  local packed = cmsgpack.unpack(text:sub(2))
  return {
    held = true,
    fingerprint = packed[1],
    transaction = packed[2],
    deadline_ms = packed[3],
    takes = packed[4],
    body = packed[5],
    taken_ms = packed[6],
  }
end

-- What stands for this order and code: nothing (nil), the same request ("D <place>"), another (a refusal), or a part of
-- a transaction that is not settled yet ("W <transaction>").
local function standing_answer(campaign, item)
  local standing = read_standing(redis.call('HGET', campaign.orders, item.order))
  if not standing then
    return nil
  end
  if standing.held then
    return 'W ' .. standing.transaction
  end
  if standing.fingerprint == item.fingerprint then
    return 'D ' .. standing.place
  end
  return refuse(REASON.ORDER_ALREADY_REDEEMED, 'place=' .. standing.place)
end

-- Why the item is not redeemed now, in order of precedence; or nil when nothing speaks against it, and then the takes
-- and the counters that they are about. The campaign's rules and its times were judged by the caller: item.refusal,
-- '' for none. That holds from item.from_ms until before item.until_ms; at any other time by this store's clock the
-- answer is "T <time in ms>": judge again.
local function refusal(campaign, item, now)
  if campaign.version ~= item.version then
    return 'S'
  end
  if not campaign.active then
    return refuse(REASON.CAMPAIGN_PAUSED)
  end
  if now < item.from_ms or now >= item.until_ms then
    return 'T ' .. integer(now)
  end
  if item.refusal ~= '' then
    return item.refusal
  end
  local takes = parse_takes(item.takes)
  local counters = load_counters(campaign.counters, takes, now)
  return misfit(counters, takes), takes, counters
end
