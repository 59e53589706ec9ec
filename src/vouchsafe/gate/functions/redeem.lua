-- Purpose: decides a batch of redemptions of one code, each on its own: claim notes a request id in the partition of
--          the id, redeem takes the use in the partition of the campaign.
-- KEYS:    1 meta
--          claim: then for each item its request
--          redeem: 2 outbox, then for each campaign 5 (orders.lua); then for each item its request
-- ARGV:    1 token, 2 how long requests are remembered in ms
--          claim: then for each item its fingerprint
--          redeem: 3 number of campaigns, then the id of each campaign, then for each item the index of
--          its campaign (from 1) and its values (read_item in decide.lua)
-- Returns: claim: for each item "K" (the request id is this request's, and not answered here), "X" (it is another's) or
--          the answer that it got here.
--          redeem: for each item one of
--          "R <place> <time in ms> <digest>"  redeemed, now or by this request before; place: "<epoch>-<stream id>"
--          "N <reason> k=v ..."  refused, now or before
--          "D <place>"          this order has redeemed this code already with the same contents, by another request;
--                               place as above, or the whole id of a redemption of several codes
--          "X"                  the request id is another request's
--          "S"                  the caller's version is stale; nothing was decided
--          "T <time in ms>"     what the rules object to, or that they do not, is not true at this time; nothing was
--                               decided
--          "W <transaction>"    the order has it in a transaction that is not settled yet; nothing was decided
--          "E"                  reservations are being given back; nothing was decided
--          "U"                  the campaign is not here; nothing was decided
-- Writes:  claim: request (fingerprint). redeem: request (fingerprint and answer) for every R, N and D; for R also
--          the counters of the campaign, the order, one event in the outbox, and the end of the order's own reservation
--          of the code; what loading a campaign writes (orders.lua).

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
    answers[i - 1] = (known and known ~= '') and known or 'K'
  end
  return answers
end)

local DECIDED = { R = true, N = true, D = true }

register('redeem', function(keys, args)
  local now = now_ms()
  local outbox, ttl_ms, count = keys[2], args[2], tonumber(args[3])
  local campaigns = load_campaigns(keys, 3, args, 4, count, outbox, now)
  local next_request = 3 + count * KEYS_PER_CAMPAIGN
  local answers = {}
  for at = 4 + count, #args, 1 + ITEM_FIELDS do
    local campaign, item = campaigns[tonumber(args[at])], read_item(args, at + 1)
    local request = keys[next_request]
    next_request = next_request + 1

    -- Idempotency: a request id that has its answer gets it again.
    local answer = remembered(request, item.fingerprint)
    if not answer or answer == '' then
      -- One order, one use.
      local standing = campaign and read_standing(campaign, item.order)
      local takes, counters
      answer, takes, counters = consider(campaign, item, standing, { standing }, now)
      if not answer then
        take_use(campaign, item, takes, counters, standing, now)
        local place = epoch .. '-' .. add_event(outbox, 'redeemed', campaign.id, item.body, now)
        keep_redeemed(campaign, item.order, item.fingerprint, place)
        answer = table.concat({ 'R', place, integer(now), item.digest }, ' ')
      end
      if DECIDED[answer:sub(1, 1)] then
        redis.call('SET', request, item.fingerprint .. answer, 'PX', ttl_ms)
      end
    end
    answers[#answers + 1] = answer
  end
  return answers
end)
