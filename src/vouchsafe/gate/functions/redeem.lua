-- Purpose: decides a batch of redemptions of one code, each on its own. redeem takes the use in the partition of the
--          campaign. A request id belongs to one request, wherever that goes: it is noted in the partition of the id, its
--          home, by redeem itself where one call may touch both, else by claim before.
-- KEYS:    1 meta
--          claim: then for each item its request
--          redeem: 2 outbox, then the meta of each home, then for each campaign 5 (orders.lua); then for each item its
--          request, and if it has a home here its request there
-- ARGV:    1 token, 2 how long requests are remembered in ms
--          claim: then for each item its fingerprint
--          redeem: 3 number of homes, then the token of each, '' where it is closed; number of campaigns, then the id of
--          each; then for each item the index of its campaign (from 1), the index of its home (0: that is this partition,
--          or claim was called), and its values (read_item in decide.lua)
-- Returns: claim: for each item "K" (the request id is this request's, and not answered here), "X" (it is another's) or
--          the answer that it got here.
--          redeem: for each item one of
--          "R <place> <time in ms> <digest>"  redeemed, now or by this request before; place: "<epoch>-<stream id>"
--          "N <reason> k=v ..."  refused, now or before
--          "D <place>"          this order has redeemed this code already with the same contents, by another request;
--                               place as above, or the whole id of a redemption of several codes
--          "P <answer>"         what this request was answered at its home before; a place is one there
--          "X"                  the request id is another request's
--          "C"                  the home is closed; nothing was decided
--          "S"                  the caller's version is stale; nothing was decided
--          "T <time in ms>"     what the rules object to, or that they do not, is not true at this time; nothing was
--                               decided
--          "W <transaction>"    the order has it in a transaction that is not settled yet; nothing was decided
--          "E"                  reservations are being given back; nothing was decided
--          "U"                  the campaign is not here; nothing was decided
-- Writes:  claim, and redeem at homes: request (fingerprint). redeem: request (fingerprint and answer) for every R, N and
--          D; for R also the counters of the campaign, the order, one event in the outbox, and the end of the order's own
--          reservation of the code; what loading a campaign writes (orders.lua).

-- What a record says. nil: the id is free. 'X': it is another request's. '': it is this request's, not answered yet. Else
-- the answer.
local function told_by(record, fingerprint)
  if not record then
    return nil
  end
  if record:sub(1, FINGERPRINT_LENGTH) ~= fingerprint then
    return 'X'
  end
  return record:sub(FINGERPRINT_LENGTH + 1)
end

local function remembered(key, fingerprint)
  return told_by(redis.call('GET', key), fingerprint)
end

-- As remembered, and an id that is free is the request's from now on.
local function claimed(key, fingerprint, ttl_ms)
  return told_by(redis.call('SET', key, fingerprint, 'NX', 'GET', 'PX', ttl_ms), fingerprint)
end

register('claim', function(keys, args)
  local answers = {}
  for i = 2, #keys do
    local known = claimed(keys[i], args[i + 1], args[2])
    answers[i - 1] = (known and known ~= '') and known or 'K'
  end
  return answers
end)

-- What an item is answered by the home of its request id, nil for nothing.
local function told_at_home(is_home_open, key, fingerprint, ttl_ms)
  if not is_home_open then
    return 'C'
  end
  local known = claimed(key, fingerprint, ttl_ms)
  if known and known ~= '' then
    return known == 'X' and known or 'P ' .. known
  end
  return nil
end

local DECIDED = { R = true, N = true, D = true }

register('redeem', function(keys, args)
  local now = now_ms()
  local outbox, ttl_ms, homes = keys[2], args[2], tonumber(args[3])
  local are_open = {}
  for i = 1, homes do
    are_open[i] = is_open(keys[2 + i], args[3 + i])
  end
  local count = tonumber(args[4 + homes])
  local campaigns = load_campaigns(keys, 3 + homes, args, 5 + homes, count, outbox, now)
  local next_key = 3 + homes + count * KEYS_PER_CAMPAIGN
  local answers = {}
  for at = 5 + homes + count, #args, 2 + ITEM_FIELDS do
    local campaign, home, item = campaigns[tonumber(args[at])], tonumber(args[at + 1]), read_item(args, at + 2)
    local request = keys[next_key]
    next_key = next_key + 1
    local answer
    if home > 0 then
      answer = told_at_home(are_open[home], keys[next_key], item.fingerprint, ttl_ms)
      next_key = next_key + 1
    end

    -- Idempotency: a request id that has its answer gets it again.
    answer = answer or remembered(request, item.fingerprint)
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
