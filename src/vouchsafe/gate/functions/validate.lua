-- Purpose: says what redeem would answer, for a batch of items: validate now, trial at a time that is pretended, as if every
--          campaign were active. Takes nothing.
-- KEYS:    1 meta, 2 outbox, then for each campaign 5 (orders.lua)
-- ARGV:    1 token, 2 number of campaigns, then the id of each campaign, then for each item the index of its campaign
--          (from 1), for trial the time in ms, the other codes of the campaign that are asked for together with it ('' for
--          none), and its values (read_item in decide.lua). What the order holds of those other codes gives way when they
--          are taken together (hold_all in decide.lua), so it is not looked at either.
-- Returns: validate: for each item one of
--          "V"                  it could be redeemed, or this order has redeemed it already with the same contents
--          "N <reason> k=v ..." it could not
--          "S"                  the caller's version is stale
--          "T <time in ms>"     what the rules object to, or that they do not, is not true at this time
--          "W <transaction>"    the order has it in a transaction that is not settled yet
--          "E"                  reservations are being given back; ask again
--          "U"                  the campaign is not here
--          trial: the same but for "E", behind "1 " when the campaign is active and "0 " when it is not. Counters are as
--          they are now: a reservation counts, whenever its time is over.
-- Writes:  validate: what loading a campaign writes (orders.lua). trial: nothing, and Valkey holds it to that.

local function add_reservations(own, campaign, order_id, codes)
  for code in codes:gmatch('%S+') do
    local standing = read_standing(campaign, order_id .. ' ' .. code)
    if gives_way(standing) then
      own[#own + 1] = standing
    end
  end
end

-- What redeem would answer to an item at a time, when it is asked for together with the `others`.
local function foretold(campaign, others, item, now)
  local standing = campaign and read_standing(campaign, item.order)
  local own = { standing }
  if campaign and others ~= '' then
    add_reservations(own, campaign, item.order:match('^%S+'), others)
  end
  local answer = consider(campaign, item, standing, own, now) or 'V'
  return answer:sub(1, 1) == 'D' and 'V' or answer
end

register('validate', function(keys, args)
  local now = now_ms()
  local count = tonumber(args[2])
  local campaigns = load_campaigns(keys, 3, args, 3, count, keys[2], now)
  local answers = {}
  for at = 3 + count, #args, 2 + ITEM_FIELDS do
    answers[#answers + 1] = foretold(campaigns[tonumber(args[at])], args[at + 1], read_item(args, at + 2), now)
  end
  return answers
end)

register('trial', function(keys, args)
  local count = tonumber(args[2])
  local campaigns, activity = {}, {}
  for i = 1, count do
    local campaign = read_campaign(keys, 3 + (i - 1) * KEYS_PER_CAMPAIGN, args[2 + i], keys[2])
    activity[i] = campaign and campaign.state == 'active' and '1 ' or '0 '
    if campaign then
      campaign.state = 'active'
    end
    campaigns[i] = campaign
  end
  local answers = {}
  for at = 3 + count, #args, 3 + ITEM_FIELDS do
    local index, now, item = tonumber(args[at]), tonumber(args[at + 1]), read_item(args, at + 3)
    answers[#answers + 1] = activity[index] .. foretold(campaigns[index], args[at + 2], item, now)
  end
  return answers
end, { 'no-writes' })
