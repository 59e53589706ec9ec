-- Purpose: the checks that redeem, hold, reserve and validate share. Nothing here writes but `take_use` and `hold_use`.
-- KEYS:    none; this file registers no function.
-- ARGV:    none; those functions take the values of an item that read_item names.
-- Returns: nothing.
-- Writes:  take_use: the campaign's counters; and of a reservation that gives way to the use its end. hold_use: also the
--          hold.

-- An item is ITEM_FIELDS values, in this order.
local ITEM_FIELDS = 10

local function read_item(args, at)
  return {
    campaign = tonumber(args[at]), -- index of its campaign, from 1
    version = args[at + 1], -- that it was judged by
    fingerprint = args[at + 2], -- of the request
    order = args[at + 3], -- "<order id> <code>"
    takes = args[at + 4], -- as counters.lua reads them
    refusal = args[at + 5], -- what the rules object to, '' for nothing
    from_ms = tonumber(args[at + 6]), -- from when that is true
    until_ms = tonumber(args[at + 7]), -- until before when
    digest = args[at + 8], -- of the body
    body = args[at + 9], -- of the event
  }
end

-- What an order has of a code, as an answer: "W <transaction>" for a part of a transaction that is not settled yet,
-- "D <place>" for a redemption with the same contents, a refusal for another.
local function standing_answer(standing, item)
  if standing.held then
    return 'W ' .. standing.transaction
  end
  if standing.fingerprint == item.fingerprint then
    return 'D ' .. standing.place
  end
  return refuse(REASON.ORDER_ALREADY_REDEEMED, 'place=' .. standing.place)
end

-- Why the item is not taken now, in order of precedence; or nil when nothing speaks against it. Then also what take_use
-- needs: its takes, the counters without the order's own reservation of the code, and that reservation, if there is one.
-- The campaign's rules and its times were judged by the caller: item.refusal, '' for none. That holds from item.from_ms
-- until before item.until_ms; at any other time by this store's clock the answer is "T <time in ms>": judge again.
-- "E": reservations whose time is over were given back, and there may be more: ask again. A hold counts more than a
-- redemption does.
local function consider(campaign, item, standing, now, is_hold)
  if not campaign then
    return 'U'
  end
  if campaign.is_crowded then
    return 'E'
  end
  if standing and not (standing.held and standing.transaction == '') then
    return standing_answer(standing, item)
  end
  if campaign.version ~= item.version then
    return 'S'
  end
  if not campaign.active then
    return refuse(REASON.CAMPAIGN_PAUSED)
  end
  if now < item.from_ms or now >= item.until_ms then
    return 'T ' .. integer(now)
  end
  if item.refusal ~= '' then
    return item.refusal
  end
  local takes = is_hold and counted(item) or parse_takes(item.takes)
  local counters
  if standing then
    local own = counted(standing)
    counters = load_counters(campaign.counters, now, takes, own)
    change_counters(counters, own, -1, standing.taken_ms)
  else
    counters = load_counters(campaign.counters, now, takes)
  end
  return misfit(counters, takes), takes, counters, standing
end

-- Counts the use that `consider` had no objection to; the order's own reservation gives way to it.
local function take_use(campaign, item, takes, counters, own, now)
  change_counters(counters, takes, 1, now)
  store_counters(counters)
  if own then
    redis.call('ZREM', campaign.holds, item.order)
    add_event(campaign.outbox, 'released', campaign.id, ending_body(own), now)
  end
end

-- `own` is the order's own reservation that gave way, nil for none.
local function held_answer(hold, own)
  local answer = table.concat({ 'H', integer(hold.taken_ms), integer(hold.expire_ms) }, ' ')
  return own and answer .. ' ' .. own.reservation or answer
end

-- Holds an item, if nothing speaks against it, for the transaction or the reservation that `hold` names. Answers as
-- `consider` does, or held_answer.
local function hold_use(campaign, item, standing, hold, now)
  local answer, takes, counters, own = consider(campaign, item, standing, now, true)
  if answer then
    return answer
  end
  take_use(campaign, item, takes, counters, own, now)
  hold.fingerprint, hold.takes, hold.body, hold.taken_ms = item.fingerprint, item.takes, item.body, now
  keep_hold(campaign, item.order, hold)
  return held_answer(hold, own)
end
