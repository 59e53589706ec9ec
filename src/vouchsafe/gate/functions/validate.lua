-- Purpose: says what redeem would answer now, for a batch of items. Takes nothing.
-- KEYS:    1 meta, then for each campaign 4: campaign, customers, code uses, orders
-- ARGV:    1 token, 2 number of campaigns, then for each item 10 values: index of its campaign (from 1), version,
--          fingerprint, customer, code, use limit of the code (0 for none), "<order id> <code>", refusal ('' for none),
--          from when and until when the refusal, or that there is none, is true, in ms
-- Returns: for each item one of
--          "V"                  it could be redeemed, or this order has redeemed it already with the same contents
--          "N <reason> k=v ..." it could not
--          "S"                  the caller's version is stale
--          "T <time in ms>"     the refusal, or that there is none, is not true at this time
--          "U"                  the campaign is not here
-- Writes:  nothing.

local VALIDATE_FIELDS = 10

register('validate', function(keys, args)
  local now = now_ms()
  local campaigns = load_campaigns(keys, 2, tonumber(args[2]))
  local answers = {}
  for at = 3, #args, VALIDATE_FIELDS do
    local campaign = campaigns[tonumber(args[at])]
    local item = {
      version = args[at + 1],
      fingerprint = args[at + 2],
      customer = args[at + 3],
      code = args[at + 4],
      code_limit = tonumber(args[at + 5]),
      order = args[at + 6],
      refusal = args[at + 7],
      from_ms = tonumber(args[at + 8]),
      until_ms = tonumber(args[at + 9]),
    }
    local answer
    if not campaign then
      answer = 'U'
    else
      local standing = standing_answer(campaign, item)
      if standing then
        answer = standing:sub(1, 1) == 'D' and 'V' or standing
      elseif campaign.version ~= item.version then
        answer = 'S'
      else
        answer = refusal(campaign, item, now) or 'V'
      end
    end
    answers[#answers + 1] = answer
  end
  return answers
end, { 'no-writes' })
