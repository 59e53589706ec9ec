-- Purpose: several codes on one order, all or none, wherever their campaigns lie. The parts of a campaign are held in one
--          step in its partition, then the whole is decided in the partition of the request id, then each part is
--          settled. Until it is settled a part counts as used: nothing is oversold whoever dies when. Whoever finds a
--          part behind its deadline asks for the decision, which makes one if there is none: then the transaction is
--          undone.
-- KEYS:    1 meta
--          hold: 2 outbox, 3 pending, then for each campaign 5 (orders.lua)
--          decide: 2 outbox, 3 fences, then for each item 2: transaction, and what its answer is remembered under
--          answer: then for each item what its answer is remembered under
--          decision: then for each item its transaction
--          settle: 2 outbox, 3 pending, 4 holding, then for each campaign 5 (orders.lua)
--          overdue: 2 pending
--          forget: then for each item its transaction
-- ARGV:    1 token
--          hold: 2 number of campaigns, then the id of each campaign, then for each item the index of its
--            campaign (from 1), its transaction and its deadline in ms, and the codes of the campaign that are held
--            together (read_items in decide.lua)
--          decide: then for each item its fingerprint, its deadline in ms, how long its answer is remembered in ms,
--            digest and body of the event, and the partitions of its parts, each with a space before it and "=<epoch>" in
--            which the part was held behind it
--          answer: then for each item its fingerprint, the answer, and how long that is remembered in ms
--          decision: 2 how long it is remembered in ms that a transaction is undone
--          settle: 2 number of campaigns, then the id of each campaign, then for each item 4 values: index of its
--            campaign (from 1), "<order id> <code>", its transaction, the id of the redemption ('' when it is undone)
--          overdue: 2 how many at most
--          forget: 2 after how many ms
-- Returns: hold: for each item a list with, for each of its codes, "H <taken in ms> 0 <epoch> -", with the order's own
--            reservation that gave way to it, if there was one, as the last word; or that breaks off with what redeem answers to one
--            of them: then none is held
--          decide: for each item "R <place> <time in ms> <digest>", decided now or before; the answer given before; "X"
--            the request id is another's; "A" when it is undone, its deadline has passed, or a partition has begun another epoch since it held a part
--          answer: for each item the answer that stands: this one, if there was none; "X" the request id is another's
--          decision: for each item the place of its redemption, or '' when it is undone, from now on for ever
--          settle: for each item 1 when it was held and is not any more, else 0
--          overdue: the parts behind their deadline, each "<campaign id> <order id> <code> <transaction>"
--          forget: for each item 1 when it was there, and expires from now on, else 0
-- Writes:  hold: counters, orders and pending for every item that is held. decide: transaction, request, and one event for an R.
--          answer: requests that have no answer. decision: transactions that were not decided. settle: orders and
--          pending, one event for each that becomes a redemption, the counters for each that is undone; one that is undone
--          and belongs to a reservation is only that again. forget: when transactions expire. hold: also what loading a
--          campaign writes (orders.lua), and the end of the order's own reservation of the code.

-- Puts a hold among those that wait for a decision, or takes it out.
local function set_pending(pending, campaign, order, hold, is_pending)
  local part = table.concat({ campaign.id, order, hold.transaction }, ' ')
  if is_pending then
    redis.call('ZADD', pending, hold.deadline_ms, part)
  else
    redis.call('ZREM', pending, part)
  end
end

register('hold', function(keys, args)
  local now = now_ms()
  local count = tonumber(args[2])
  local campaigns = load_campaigns(keys, 4, args, 3, count, keys[2], now)
  local answers = {}
  local at = 3 + count
  while at <= #args do
    local campaign, transaction = campaigns[tonumber(args[at])], args[at + 1]
    local hold = { transaction = transaction, deadline_ms = tonumber(args[at + 2]), reservation = '', expire_ms = 0 }
    local items, behind = read_items(args, at + 3)
    answers[#answers + 1] = hold_all(campaign, items, hold, now, function(standing)
      return standing.transaction == transaction and held_answer(standing, '-')
    end, function(item)
      set_pending(keys[3], campaign, item.order, hold, true)
      return '-'
    end)
    at = behind
  end
  return answers
end)

-- Whether one of the partitions has begun another epoch (fence in open.lua): what it held before may be lost.
local function is_fenced(fences, parts)
  for partition, held in parts:gmatch(' (%d+)=(%d+)') do
    if tonumber(held) < tonumber(redis.call('HGET', fences, partition) or 0) then
      return true
    end
  end
  return false
end

register('decide', function(keys, args)
  local now = now_ms()
  local answers = {}
  for i = 4, #keys, 2 do
    local transaction, request = keys[i], keys[i + 1]
    local at = 2 + (i - 4) / 2 * 6
    local fingerprint, deadline_ms, digest, body = args[at], tonumber(args[at + 1]), args[at + 3], args[at + 4]
    local answer = remembered(request, fingerprint)
    if not answer or answer == '' then
      -- Behind the deadline anybody may have undone it, and that is not remembered for ever.
      if redis.call('EXISTS', transaction) == 1 or now >= deadline_ms or is_fenced(keys[3], args[at + 5]) then
        answer = 'A'
      else
        local place = epoch .. '-' .. add_event(keys[2], 'combined', '', body, now)
        answer = table.concat({ 'R', place, integer(now), digest }, ' ')
        redis.call('SET', transaction, place)
        redis.call('SET', request, fingerprint .. answer, 'PX', args[at + 2])
      end
    end
    answers[#answers + 1] = answer
  end
  return answers
end)

register('answer', function(keys, args)
  local answers = {}
  for i = 2, #keys do
    local at = 2 + (i - 2) * 3
    local fingerprint, answer = args[at], args[at + 1]
    local known = remembered(keys[i], fingerprint)
    if not known or known == '' then
      redis.call('SET', keys[i], fingerprint .. answer, 'PX', args[at + 2])
      known = answer
    end
    answers[i - 1] = known
  end
  return answers
end, { 'allow-oom' }) -- what waits for it gives back

register('decision', function(keys, args)
  local answers = {}
  for i = 2, #keys do
    redis.call('SET', keys[i], '', 'NX', 'PX', args[2])
    answers[i - 1] = redis.call('GET', keys[i])
  end
  return answers
end, { 'allow-oom' })

-- The event of a part names the redemption that it is a part of.
local function part_body(hold, redemption)
  return ending_body(hold, ',"combined_id":"' .. redemption .. '"')
end

register('settle', function(keys, args)
  local now = now_ms()
  local outbox, pending, holding, count = keys[2], keys[3], keys[4], tonumber(args[2])
  local answers = {}
  for at = 3 + count, #args, 4 do
    local index, order, transaction, redemption = tonumber(args[at]), args[at + 1], args[at + 2], args[at + 3]
    local campaign = campaign_at(keys, 5 + (index - 1) * KEYS_PER_CAMPAIGN, args[2 + index], outbox)
    local hold = read_standing(campaign, order)
    local settled = 0
    if hold and hold.held and hold.transaction == transaction then
      set_pending(pending, campaign, order, hold, false)
      if redemption ~= '' then
        local held = held_takes(parse_takes(hold.takes))
        local counters = load_counters(campaign.counters, now, { held })
        change_counters(counters, held, -1, hold.taken_ms)
        store_counters(counters)
        add_event(outbox, 'redeemed', campaign.id, part_body(hold, redemption), now)
        keep_redeemed(campaign, order, hold.fingerprint, redemption)
      elseif hold.reservation ~= '' then
        hold.transaction = ''
        keep_hold(campaign, order, hold)
        redis.call('ZADD', holding, 'LT', hold.expire_ms, campaign.id)
      else
        give_up(campaign, order, hold, '', now)
      end
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
