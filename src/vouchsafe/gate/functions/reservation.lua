-- Purpose: reservations: uses that are held for an order until a time by this store's clock, to be made redemptions by
--          a transaction (transaction.lua), or given back. A reservation may be of several codes, each a part in the
--          partition of its campaign; what it is of is noted under its id, in the partition that the id names.
-- KEYS:    1 meta
--          reserve and expire: 2 outbox, 3 holding, then for each campaign 5 (orders.lua)
--          pin: 2 outbox, 3 pending, then for each campaign 5 (orders.lua)
--          release: 2 outbox, then for each campaign 5 (orders.lua)
--          note: 2 outbox, then for each item 2: reservation, request
--          noted: then for each item 2: reservation, and what its end is remembered under
--          expiring: 2 holding
-- ARGV:    1 token
--          reserve: 2 number of campaigns, then the id of each, then for each item the index of its campaign (from
--            1), its reservation and how long it shall last in ms, and the codes of the campaign that are held together
--            (read_items in decide.lua)
--          pin: 2 number of campaigns, then the id of each, then for each item 5 values: index of its campaign (from 1),
--            "<order id> <code>", its reservation, the transaction and the transaction's deadline in ms
--          release: 2 number of campaigns, then the id of each, then for each item 4 values: index of its campaign,
--            "<order id> <code>", its reservation, "1" when all of the reservation ends with it
--          expire: 2 number of campaigns, then the id of each
--          note: 2 how long requests are remembered in ms, then for each item its fingerprint, how long the note shall
--            last in ms, the answer to the request, the note, and the body of the event
--          expiring: 2 how many at most
-- Returns: reserve: for each item a list with, for each of its codes, "H <taken in ms> <expire in ms> <place of its event,
--            - if it was held before>", with the order's own reservation that gave way to it, if there was one, behind; or that breaks off with "Y
--            <reservation>", when the order has a reservation of the code with the same contents, or with what redeem
--            answers: then none is held
--          pin: for each item "H <taken in ms> <expire in ms> -" when it is a part of the transaction now, "W <transaction>"
--            when it is one of another, "G <time in ms>" when the order does not have it (any more), or a refusal
--          release: for each item "G" when the order does not have it (any more), or "W <transaction>"
--          expire: 1
--          note: for each item the place of its event, "<epoch>-<stream id>"
--          noted: for each item "<place of its event> <note>", or false, and what is remembered, or false
--          expiring: the ids of campaigns with reservations whose time is over
-- Writes:  reserve: of every item that is held counters, orders, holds, holding and one event for each code. pin: orders,
--          holds and pending. release: counters, orders, holds and one event for each that was held. expire: holding.
--          note: the note, the request with its answer, and one event. All that load campaigns: see orders.lua.

register('reserve', function(keys, args)
  local now = now_ms()
  local outbox, holding, count = keys[2], keys[3], tonumber(args[2])
  local campaigns = load_campaigns(keys, 4, args, 3, count, outbox, now)
  local answers = {}
  local at = 3 + count
  while at <= #args do
    local campaign, reservation = campaigns[tonumber(args[at])], args[at + 1]
    local expire_ms = now + tonumber(args[at + 2])
    local hold = { transaction = '', deadline_ms = 0, reservation = reservation, expire_ms = expire_ms }
    local items, behind = read_items(args, at + 3)
    answers[#answers + 1] = hold_all(campaign, items, hold, now, function(standing, item)
      if standing.reservation == reservation then
        return held_answer(standing, '-')
      end
      return gives_way(standing) and standing.fingerprint == item.fingerprint and 'Y ' .. standing.reservation
    end, function(item)
      redis.call('ZADD', holding, 'LT', expire_ms, campaign.id)
      local body = table.concat({ item.body:sub(1, -2), ',"expire_ms":', integer(expire_ms), '}' })
      return epoch .. '-' .. add_event(outbox, 'held', campaign.id, body, now)
    end)
    at = behind
  end
  return answers
end)

register('pin', function(keys, args)
  local now = now_ms()
  local count = tonumber(args[2])
  local campaigns = load_campaigns(keys, 4, args, 3, count, keys[2], now)
  local answers = {}
  for at = 3 + count, #args, 5 do
    local campaign, order, reservation = campaigns[tonumber(args[at])], args[at + 1], args[at + 2]
    local hold = campaign and read_standing(campaign, order)
    local answer
    if not campaign then
      answer = 'U'
    elseif hold and not hold.held then
      answer = refuse(REASON.ORDER_ALREADY_REDEEMED, 'place=' .. hold.place)
    elseif not hold or hold.reservation ~= reservation or (hold.transaction == '' and now >= hold.expire_ms) then
      answer = 'G ' .. integer(now)
    elseif hold.transaction ~= '' then
      answer = hold.transaction == args[at + 3] and held_answer(hold, '-') or 'W ' .. hold.transaction
    elseif is_stopped(campaign, order) then
      answer = refuse(REASON.KILL_SWITCH_ENGAGED)
    elseif is_disabled(campaign, order) then
      answer = refuse(REASON.CODE_DISABLED)
    elseif campaign.state ~= 'active' then
      answer = idle(campaign)
    else
      hold.transaction, hold.deadline_ms = args[at + 3], tonumber(args[at + 4])
      keep_hold(campaign, order, hold)
      set_pending(keys[3], campaign, order, hold, true)
      answer = held_answer(hold, '-')
    end
    answers[#answers + 1] = answer
  end
  return answers
end)

register('release', function(keys, args)
  local now = now_ms()
  local count = tonumber(args[2])
  local answers = {}
  for at = 3 + count, #args, 4 do
    local index, order, reservation = tonumber(args[at]), args[at + 1], args[at + 2]
    local campaign = campaign_at(keys, 3 + (index - 1) * KEYS_PER_CAMPAIGN, args[2 + index], keys[2])
    local hold = read_standing(campaign, order)
    local answer = 'G ' .. integer(now)
    if hold and hold.reservation == reservation then
      if hold.transaction == '' then
        give_up(campaign, order, hold, 'released', now, args[at + 3] == '1' and ',"is_end":true' or '')
      else
        answer = 'W ' .. hold.transaction
      end
    end
    answers[#answers + 1] = answer
  end
  return answers
end, { 'allow-oom' }) -- it gives back

register('note', function(keys, args)
  local now = now_ms()
  local answers = {}
  for i = 3, #keys, 2 do
    local at = 3 + (i - 3) / 2 * 5
    local place = epoch .. '-' .. add_event(keys[2], 'reserved', '', args[at + 4], now)
    redis.call('SET', keys[i], place .. ' ' .. args[at + 3], 'PX', args[at + 1])
    redis.call('SET', keys[i + 1], args[at] .. args[at + 2], 'PX', args[2])
    answers[#answers + 1] = place
  end
  return answers
end)

register('noted', function(keys)
  local notes = {}
  for i = 2, #keys, 2 do
    local remembered_end = redis.call('GET', keys[i + 1])
    notes[#notes + 1] = {
      redis.call('GET', keys[i]),
      remembered_end and remembered_end:sub(FINGERPRINT_LENGTH + 1),
    }
  end
  return notes
end, { 'no-writes' })

register('expiring', function(keys, args)
  return redis.call('ZRANGE', keys[2], '-inf', integer(now_ms()), 'BYSCORE', 'LIMIT', 0, args[2])
end, { 'no-writes' })

register('expire', function(keys, args)
  local now = now_ms()
  local count = tonumber(args[2])
  load_campaigns(keys, 4, args, 3, count, keys[2], now)
  for i = 1, count do
    local holds = keys[4 + (i - 1) * KEYS_PER_CAMPAIGN + 3]
    local first = redis.call('ZRANGE', holds, 0, 0, 'WITHSCORES')
    if first[1] then
      redis.call('ZADD', keys[3], first[2], args[2 + i])
    else
      redis.call('ZREM', keys[3], args[2 + i])
    end
  end
  return { 1 }
end, { 'allow-oom' }) -- it gives back
