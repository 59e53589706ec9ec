-- Purpose: what comes back of redemptions. A rollback is decided in the partition of the redemption, in one step; then
--          each code's counters come back in the partition of its campaign, once, however often that is asked. Until
--          then the rollback is kept among those that return.
-- KEYS:    1 meta
--          roll_back: 2 outbox, 3 rolled, 4 returning, then for each item its request
--          rolled: 2 rolled
--          give_back: 2 outbox, then for each campaign 5 (orders.lua), then for each item its mark
--          returning: 2 returning
--          given_back: 2 returning
--          unmark: then marks
-- ARGV:    1 token
--          roll_back: 2 how long requests are remembered in ms, then for each item its fingerprint, the id of the
--            redemption, what was read of it before ('' for nothing), what is to be kept of it now, and digest and body
--            of the event
--          rolled: then ids of redemptions
--          give_back: 2 number of campaigns, then the id of each, then for each item 7 values: index of its campaign
--            (from 1), "<order id> <code>", the place of the redemption as the order has it, "1" when the order may
--            redeem the code again, what is given back as counters.lua reads it ('' for nothing), when it was taken in ms,
--            and the body of the event
--          given_back: then the places of rollbacks
--          unmark: 2 after how many ms
-- Returns: roll_back: for each item "R <place> <time in ms> <digest>", decided now or by this request before; the answer
--            remembered for the request; "X" the request id is another's; "S" what was read is not so any more
--          rolled: for each what is kept of it, or false
--          give_back: for each item "1" when it came back now, "0" when it had before, "W <transaction>" when the order has
--            it in a transaction that is not settled yet: settle that first; or "E" when a use shall come back of a
--            redemption that the order does not have (any more): nothing of it counts
--          returning: flat pairs of places and bodies of rollbacks of which not everything may have come back
--          given_back, unmark: 1
-- Writes:  roll_back: for each R rolled, returning, the request, and one event. give_back: counters, one event and the
--          mark; the order: it may redeem again, or is not answered any more as if it had the whole. given_back: returning. unmark: when the marks expire.

-- Of an order whose redemption is not whole any more: no request has the same contents.
local NO_FINGERPRINT = ('-'):rep(FINGERPRINT_LENGTH)

register('roll_back', function(keys, args)
  local now = now_ms()
  local outbox, rolled, returning = keys[2], keys[3], keys[4]
  local answers = {}
  for i = 5, #keys do
    local at = 3 + (i - 5) * 6
    local fingerprint, redemption, digest, body = args[at], args[at + 1], args[at + 4], args[at + 5]
    local answer = remembered(keys[i], fingerprint)
    if not answer or answer == '' then
      if (redis.call('HGET', rolled, redemption) or '') ~= args[at + 2] then
        answer = 'S'
      else
        local place = epoch .. '-' .. add_event(outbox, 'rolled_back', '', body, now)
        redis.call('HSET', rolled, redemption, args[at + 3])
        redis.call('HSET', returning, place, body)
        answer = table.concat({ 'R', place, integer(now), digest }, ' ')
        redis.call('SET', keys[i], fingerprint .. answer, 'PX', args[2])
      end
    end
    answers[#answers + 1] = answer
  end
  return answers
end)

register('rolled', function(keys, args)
  local found = {}
  for i = 2, #args do
    found[i - 1] = redis.call('HGET', keys[2], args[i])
  end
  return found
end, { 'no-writes' })

register('give_back', function(keys, args)
  local now = now_ms()
  local outbox, count = keys[2], tonumber(args[2])
  local mark = 3 + count * KEYS_PER_CAMPAIGN
  local answers = {}
  for at = 3 + count, #args, 7 do
    local index, order, place, reopens = tonumber(args[at]), args[at + 1], args[at + 2], args[at + 3] == '1'
    local campaign = campaign_at(keys, 3 + (index - 1) * KEYS_PER_CAMPAIGN, args[2 + index], outbox)
    local standing = read_standing(campaign, order)
    local answer = redis.call('EXISTS', keys[mark]) == 1 and '0' or '1'
    if answer == '1' and standing and standing.held and standing.transaction ~= '' then
      answer = 'W ' .. standing.transaction
    elseif answer == '1' and reopens and not (standing and standing.place == place) then
      -- It has come back already, by a rollback that was lost with the newest data of another partition.
      answer = 'E'
    elseif answer == '1' then
      redis.call('SET', keys[mark], 1)
      local takes = parse_takes(args[at + 4])
      if #takes > 0 then
        local counters = load_counters(campaign.counters, now, { takes })
        change_counters(counters, takes, -1, tonumber(args[at + 5]))
        store_counters(counters)
      end
      if standing and standing.place == place then
        if reopens then
          redis.call('HDEL', campaign.orders, order)
        else
          keep_redeemed(campaign, order, NO_FINGERPRINT, place)
        end
      end
      add_event(outbox, 'returned', campaign.id, args[at + 6], now)
    end
    mark = mark + 1
    answers[#answers + 1] = answer
  end
  return answers
end, { 'allow-oom' }) -- it gives back

register('returning', function(keys)
  return redis.call('HGETALL', keys[2])
end, { 'no-writes' })

register('given_back', function(keys, args)
  local answers = {}
  for i = 2, #args do
    redis.call('HDEL', keys[2], args[i])
    answers[i - 1] = 1
  end
  return answers
end, { 'allow-oom' })

register('unmark', function(keys, args)
  local answers = {}
  for i = 2, #keys do
    answers[i - 1] = redis.call('PEXPIRE', keys[i], args[2])
  end
  return answers
end, { 'allow-oom' })
