-- Purpose: decides a batch of redemptions, each on its own: claim notes a request id in the partition of the id,
--          redeem takes the use in the partition of the campaign.
-- KEYS:    1 meta
--          claim: then for each item its request
--          redeem: 2 outbox, then for each campaign 4: campaign, customers, code uses, orders; then for each item its
--          request
-- ARGV:    1 token, 2 how long requests are remembered in ms
--          claim: then for each item its fingerprint
--          redeem: 3 number of campaigns, then the id of each campaign, then for each item 12 values: index of its
--          campaign (from 1), version, fingerprint, customer, code, use limit of the code (0 for none),
--          "<order id> <code>", refusal ('' for none), from when and until when the refusal, or that there is none, is
--          true, in ms, digest of the body, body of the event
-- Returns: claim: for each item "K" (the request id is this request's) or "X" (it is another's).
--          redeem: for each item one of
--          "R <place> <time in ms> <digest>"  redeemed, now or by this request before; place: "<epoch>-<stream id>"
--          "N <reason> k=v ..."  refused, now or before
--          "D <place>"          this order has redeemed this code already with the same contents, by another request
--          "X"                  the request id is another request's
--          "S"                  the caller's version is stale; nothing was decided
--          "T <time in ms>"     the refusal, or that there is none, is not true at this time; nothing was decided
--          "U"                  the campaign is not here; nothing was decided
-- Writes:  claim: request (fingerprint). redeem: request (fingerprint and answer) for every R, N and D; for R also
--          the counters of campaign, customer and code, the order, and one event in the outbox.

local REDEEM_FIELDS = 12

-- nil: the id is free. 'X': it is another request's. '': it is this request's, not answered yet. Else the answer.
local function remembered(key, fingerprint)
  local record = redis.call('GET', key)
  if not record then
    return nil
  end
  if record:sub(1, FINGERPRINT_LENGTH) ~= fingerprint then
    return 'X'
  end
  return record:sub(FINGERPRINT_LENGTH + 1)
end

register('claim', function(keys, args)
  local answers = {}
  for i = 2, #keys do
    local fingerprint = args[i + 1]
    local known = remembered(keys[i], fingerprint)
    if not known then
      redis.call('SET', keys[i], fingerprint, 'PX', args[2])
    end
    answers[i - 1] = known == 'X' and 'X' or 'K'
  end
  return answers
end)

local function take(campaign, campaign_id, outbox, epoch, item, now)
  local at = integer(now)
  local stream_id = redis.call(
    'XADD', outbox, '*',
    'kind', 'redeemed', 'at', at, 'campaign', campaign_id, 'body', item.body
  )
  local place = epoch .. '-' .. stream_id
  campaign.used = campaign.used + 1
  redis.call('HINCRBY', campaign.key, 'used', 1)
  redis.call('HINCRBY', campaign.customers, item.customer, 1)
  redis.call('HINCRBY', campaign.code_uses, item.code, 1)
  redis.call('HSET', campaign.orders, item.order, item.fingerprint .. place)
  return table.concat({ 'R', place, at, item.digest }, ' ')
end

register('redeem', function(keys, args)
  local now = now_ms()
  local outbox, ttl_ms, count = keys[2], args[2], tonumber(args[3])
  local epoch = args[1]:match('%d+$')
  local campaigns = load_campaigns(keys, 3, count)
  local next_request = 3 + count * KEYS_PER_CAMPAIGN
  local answers = {}
  for at = 4 + count, #args, REDEEM_FIELDS do
    local index = tonumber(args[at])
    local campaign = campaigns[index]
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
      digest = args[at + 10],
      body = args[at + 11],
    }
    local request = keys[next_request]
    next_request = next_request + 1

    -- Idempotency: a request id that has its answer gets it again.
    local answer = remembered(request, item.fingerprint)
    if not answer or answer == '' then
      if not campaign then
        answer = 'U'
      else
        -- One order, one use.
        answer = standing_answer(campaign, item)
        if not answer and campaign.version ~= item.version then
          answer = 'S'
        end
        if not answer then
          answer = refusal(campaign, item, now) or take(campaign, args[3 + index], outbox, epoch, item, now)
        end
        if answer ~= 'S' and answer:sub(1, 1) ~= 'T' then
          redis.call('SET', request, item.fingerprint .. answer, 'PX', ttl_ms)
        end
      end
    end
    answers[#answers + 1] = answer
  end
  return answers
end)
