-- Purpose: says what redeem would answer now, for a batch of items. Takes nothing.
-- KEYS:    1 meta, then for each campaign 3: campaign, counters, orders
-- ARGV:    1 token, 2 number of campaigns, then for each item its values (read_item in decide.lua)
-- Returns: for each item one of
--          "V"                  it could be redeemed, or this order has redeemed it already with the same contents
--          "N <reason> k=v ..." it could not
--          "S"                  the caller's version is stale
--          "T <time in ms>"     what the rules object to, or that they do not, is not true at this time
--          "W <transaction>"    the order has it in a transaction that is not settled yet
--          "U"                  the campaign is not here
-- Writes:  nothing.

register('validate', function(keys, args)
  local now = now_ms()
  local count = tonumber(args[2])
  local campaigns = load_campaigns(keys, 2, count)
  local answers = {}
  for at = 3, #args, ITEM_FIELDS do
    local item = read_item(args, at)
    local campaign = campaigns[item.campaign]
    local answer
    if not campaign then
      answer = 'U'
    else
      answer = standing_answer(campaign, item)
      if not answer then
        answer = refusal(campaign, item, now) or 'V'
      elseif answer:sub(1, 1) == 'D' then
        answer = 'V'
      end
    end
    answers[#answers + 1] = answer
  end
  return answers
end, { 'no-writes' })
