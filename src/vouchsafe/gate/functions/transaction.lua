-- Purpose: several codes on one order, all or none, wherever their campaigns lie. Each part is held in the partition of
--          its campaign, then the whole is decided in the partition of the request id, then each part is settled. Until
--          it is settled a part counts as used: nothing is oversold whoever dies when. Whoever finds a part behind its
--          deadline asks for the decision, which makes one if there is none: then the transaction is undone.
-- KEYS:    1 meta
--          hold: 2 pending, then for each campaign 3: campaign, counters, orders
--          decide: 2 outbox, then for each item 2: transaction, request
--          answer: then for each item its request
--          decision: then for each item its transaction
--          settle: 2 outbox, 3 pending, then for each campaign 3: campaign, counters, orders
--          overdue: 2 pending
--          forget: then for each item its transaction
-- ARGV:    1 token
--          hold: 2 number of campaigns, then the id of each campaign, then for each item its transaction, its deadline
--            in ms and its values (read_item in decide.lua)
--          decide: 2 how long requests are remembered in ms, then for each item its fingerprint, its deadline in ms, and
--            digest and body of the event
--          answer: 2 how long requests are remembered in ms, then for each item its fingerprint and the refusal
--          decision: 2 how long it is remembered in ms that a transaction is undone
--          settle: 2 number of campaigns, then the id of each campaign, then for each item 4 values: index of its
--            campaign (from 1), "<order id> <code>", its transaction, the id of the redemption ('' when it is undone)
--          overdue: 2 how many at most
--          forget: 2 after how many ms
-- Returns: hold: for each item "H" when it is held, or what redeem answers
--          decide: for each item "R <place> <time in ms> <digest>", decided now or before; "N ..." answered before; "X"
--            the request id is another's; "A" when it is undone, or its deadline has passed
--          answer: for each item 1
--          decision: for each item the place of its redemption, or '' when it is undone, from now on for ever
--          settle: for each item 1 when it was held and is not any more, else 0
--          overdue: the parts behind their deadline, each "<campaign id> <order id> <code> <transaction>"
--          forget: for each item 1 when it was there, and expires from now on, else 0
-- Writes:  hold: counters, orders and pending for every H. decide: transaction, request, and one event for an R.
--          answer: requests that have no answer. decision: transactions that were not decided. settle: orders and
--          pending, one event for each that becomes a redemption, the counters for each that is undone.
--          forget: when transactions expire.

register('hold', function(keys, args)
  local now = now_ms()
  local count = tonumber(args[2])
  local campaigns = load_campaigns(keys, 3, count)
  local answers = {}
  for at = 3 + count, #args, 2 + ITEM_FIELDS do
    local transaction, deadline_ms = args[at], tonumber(args[at + 1])
    local item = read_item(args, at + 2)
    local campaign = campaigns[item.campaign]
    local answer
    if not campaign then
      answer = 'U'
    else
      local takes, counters
      answer = standing_answer(campaign, item)
      if not answer then
        answer, takes, counters = refusal(campaign, item, now)
      elseif answer == 'W ' .. transaction then
        answer = 'H'
      end
      if not answer then
        store_counters(campaign.counters, counters, takes, 1, now)
        local packed = cmsgpack.pack({ item.fingerprint, transaction, deadline_ms, item.takes, item.body, now })
        redis.call('HSET', campaign.orders, item.order, 'H' .. packed)
        redis.call(
          'ZADD', keys[2], deadline_ms,
          table.concat({ args[2 + item.campaign], item.order, transaction }, ' ')
        )
        answer = 'H'
      end
    end
    answers[#answers + 1] = answer
  end
  return answers
end)

register('decide', function(keys, args)
  local now = now_ms()
  local epoch = args[1]:match('%d+$')
  local answers = {}
  for i = 3, #keys, 2 do
    local transaction, request = keys[i], keys[i + 1]
    local at = 3 + (i - 3) * 2
    local fingerprint, deadline_ms, digest, body = args[at], tonumber(args[at + 1]), args[at + 2], args[at + 3]
    local answer = remembered(request, fingerprint)
    if not answer or answer == '' then
      -- Behind the deadline anybody may have undone it, and that is not remembered for ever.
      if redis.call('EXISTS', transaction) == 1 or now >= deadline_ms then
        answer = 'A'
      else
        local place = epoch .. '-' .. add_event(keys[2], 'combined', '', body, now)
        answer = table.concat({ 'R', place, integer(now), digest }, ' ')
        redis.call('SET', transaction, place)
        redis.call('SET', request, fingerprint .. answer, 'PX', args[2])
      end
    end
    answers[#answers + 1] = answer
  end
  return answers
end)

register('answer', function(keys, args)
  local answers = {}
  for i = 2, #keys do
    local fingerprint, text = args[2 * i - 1], args[2 * i]
    local known = remembered(keys[i], fingerprint)
    if not known or known == '' then
      redis.call('SET', keys[i], fingerprint .. text, 'PX', args[2])
    end
    answers[i - 1] = 1
  end
  return answers
end)

register('decision', function(keys, args)
  local answers = {}
  for i = 2, #keys do
    redis.call('SET', keys[i], '', 'NX', 'PX', args[2])
    answers[i - 1] = redis.call('GET', keys[i])
  end
  return answers
end)

register('settle', function(keys, args)
  local now = now_ms()
  local count = tonumber(args[2])
  local answers = {}
  for at = 3 + count, #args, 4 do
    local index, order, transaction, redemption = tonumber(args[at]), args[at + 1], args[at + 2], args[at + 3]
    local campaign_id = args[2 + index]
    local first = 4 + (index - 1) * KEYS_PER_CAMPAIGN
    local counters_key, orders = keys[first + 1], keys[first + 2]
    local standing = read_standing(redis.call('HGET', orders, order))
    local settled = 0
    if standing and standing.held and standing.transaction == transaction then
      if redemption ~= '' then
        -- The event names the redemption that it is a part of.
        local body = standing.body:sub(1, -2) .. ',"combined_id":"' .. redemption .. '"}'
        add_event(keys[2], 'redeemed', campaign_id, body, now)
        redis.call('HSET', orders, order, 'R' .. standing.fingerprint .. redemption)
      else
        local takes = parse_takes(standing.takes)
        local counters = load_counters(counters_key, takes, now)
        store_counters(counters_key, counters, takes, -1, standing.taken_ms)
        redis.call('HDEL', orders, order)
      end
      redis.call('ZREM', keys[3], table.concat({ campaign_id, order, transaction }, ' '))
      settled = 1
    end
    answers[#answers + 1] = settled
  end
  return answers
end, { 'allow-oom' }) -- it has been decided, or gives back

register('overdue', function(keys, args)
  return redis.call('ZRANGE', keys[2], '-inf', integer(now_ms()), 'BYSCORE', 'LIMIT', 0, args[2])
end, { 'no-writes' })

register('forget', function(keys, args)
  local found = {}
  for i = 2, #keys do
    found[i - 1] = redis.call('PEXPIRE', keys[i], args[2])
  end
  return found
end, { 'allow-oom' })
