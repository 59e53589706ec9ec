-- Purpose: the checks that redeem and validate share. Nothing here writes.
-- KEYS:    none; this file registers no function. Both functions take 4 keys for each campaign: campaign, customers,
--          code uses, orders.
-- ARGV:    none; both functions take the item's fields that are read here.
-- Returns: nothing.
-- Writes:  nothing.

local KEYS_PER_CAMPAIGN = 4

-- A refusal as it is answered and remembered: "N <reason> <key>=<value> ...". The caller's own are
-- "N <reason> <JSON>".
local function refuse(reason, ...)
  return table.concat({ 'N', reason, ... }, ' ')
end

-- The state of one campaign as of this call, or nil when it is not all there: then nothing may be decided. An empty
-- string means that there is no such bound.
local function load_campaign(keys, first)
  local fields = redis.call(
    'HMGET', keys[first],
    'version', 'state', 'limit_total', 'limit_per_customer', 'used'
  )
  for i = 1, 5 do
    if not fields[i] then
      return nil
    end
  end
  return {
    key = keys[first],
    customers = keys[first + 1],
    code_uses = keys[first + 2],
    orders = keys[first + 3],
    version = fields[1],
    active = fields[2] == 'active',
    limit_total = tonumber(fields[3]),
    limit_per_customer = tonumber(fields[4]),
    used = tonumber(fields[5]),
  }
end

local function load_campaigns(keys, first, count)
  local campaigns = {}
  for i = 1, count do
    campaigns[i] = load_campaign(keys, first + (i - 1) * KEYS_PER_CAMPAIGN)
  end
  return campaigns
end

-- What stands for this order and code: nothing (nil), the same request ("D <place>"), or another (a refusal).
local function standing_answer(campaign, item)
  local standing = redis.call('HGET', campaign.orders, item.order)
  if not standing then
    return nil
  end
  local place = standing:sub(FINGERPRINT_LENGTH + 1)
  if standing:sub(1, FINGERPRINT_LENGTH) == item.fingerprint then
    return 'D ' .. place
  end
  return refuse(REASON.ORDER_ALREADY_REDEEMED, 'place=' .. place)
end

-- Why the item is not redeemed now, in order of precedence, or nil when nothing speaks against it. The campaign's rules
-- and its times were judged by the caller: item.refusal, '' for none. That holds from item.from_ms until before
-- item.until_ms; at any other time by this store's clock the answer is "T <time in ms>": judge again.
local function refusal(campaign, item, now)
  if not campaign.active then
    return refuse(REASON.CAMPAIGN_PAUSED)
  end
  if now < item.from_ms or now >= item.until_ms then
    return 'T ' .. integer(now)
  end
  if item.refusal ~= '' then
    return item.refusal
  end
  if item.code_limit > 0 then
    local used = tonumber(redis.call('HGET', campaign.code_uses, item.code) or 0)
    if used >= item.code_limit then
      return refuse(REASON.CODE_LIMIT_REACHED, 'limit=' .. integer(item.code_limit), 'used=' .. integer(used))
    end
  end
  if campaign.limit_per_customer then
    local used = tonumber(redis.call('HGET', campaign.customers, item.customer) or 0)
    if used >= campaign.limit_per_customer then
      return refuse(
        REASON.CUSTOMER_LIMIT_REACHED,
        'limit=' .. integer(campaign.limit_per_customer), 'used=' .. integer(used)
      )
    end
  end
  if campaign.limit_total and campaign.used >= campaign.limit_total then
    return refuse(
      REASON.CAMPAIGN_LIMIT_REACHED,
      'limit=' .. integer(campaign.limit_total), 'used=' .. integer(campaign.used)
    )
  end
  return nil
end
