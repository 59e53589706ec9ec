-- Purpose: says what redeem would answer now, for a batch of items. Takes nothing.
-- KEYS:    1 meta, 2 outbox, then for each campaign 5 (orders.lua)
-- ARGV:    1 token, 2 number of campaigns, then the id of each campaign, then for each item the index of its campaign
--          (from 1), the other codes of the campaign that are asked for together with it ('' for none), and its values
--          (read_item in decide.lua). What the order holds of those other codes gives way when they are taken together
--          (hold_all in decide.lua), so it is not looked at either.
-- Returns: for each item one of
--          "V"                  it could be redeemed, or this order has redeemed it already with the same contents
--          "N <reason> k=v ..." it could not
--          "S"                  the caller's version is stale
--          "T <time in ms>"     what the rules object to, or that they do not, is not true at this time
--          "W <transaction>"    the order has it in a transaction that is not settled yet
--          "E"                  reservations are being given back; ask again
--          "U"                  the campaign is not here
-- Writes:  what loading a campaign writes (orders.lua).

local function add_reservations(own, campaign, order_id, codes)
  for code in codes:gmatch('%S+') do
    local standing = read_standing(campaign, order_id .. ' ' .. code)
    if gives_way(standing) then
      own[#own + 1] = standing
    end
  end
end

register('validate', function(keys, args)
  local now = now_ms()
  local count = tonumber(args[2])
  local campaigns = load_campaigns(keys, 3, args, 3, count, keys[2], now)
  local answers = {}
  for at = 3 + count, #args, 2 + ITEM_FIELDS do
    local campaign, others, item = campaigns[tonumber(args[at])], args[at + 1], read_item(args, at + 2)
    local standing = campaign and read_standing(campaign, item.order)
    local own = { standing }
    if campaign and others ~= '' then
      add_reservations(own, campaign, item.order:match('^%S+'), others)
    end
    local answer = consider(campaign, item, standing, own, now) or 'V'
    answers[#answers + 1] = answer:sub(1, 1) == 'D' and 'V' or answer
  end
  return answers
end)
