-- Purpose: the checks that redeem, hold, reserve and validate share. Nothing here writes but `take_use` and `hold_all`.
-- KEYS:    none; this file registers no function.
-- ARGV:    none; those functions take the values of an item that read_item names.
-- Returns: nothing.
-- Writes:  take_use: the campaign's counters; and of a reservation that gives way to the use its end. hold_all: also the
--          holds.

-- An item is ITEM_FIELDS values, in this order.
local ITEM_FIELDS = 9

local function read_item(args, at)
  return {
    version = args[at], -- of its campaign, that it was judged by
    fingerprint = args[at + 1], -- of the request
    order = args[at + 2], -- "<order id> <code>"
    takes = args[at + 3], -- as counters.lua reads them
    refusal = args[at + 4], -- what the rules object to, '' for nothing
    from_ms = tonumber(args[at + 5]), -- from when that is true
    until_ms = tonumber(args[at + 6]), -- until before when
    digest = args[at + 7], -- of the body
    body = args[at + 8], -- of the event
  }
end

-- Items of one campaign that are held together: their number at args[at], then each. Answers also what stands behind them.
local function read_items(args, at)
  local items, count = {}, tonumber(args[at])
  for i = 1, count do
    items[i] = read_item(args, at + 1 + (i - 1) * ITEM_FIELDS)
  end
  return items, at + 1 + count * ITEM_FIELDS
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

-- What of an order gives way to another use of the code by the same order: a reservation.
local function gives_way(standing)
  return standing and standing.held and standing.transaction == ''
end

-- Whether a kill switch (stop.lua) is engaged that concerns a code of the campaign.
local function is_stopped(campaign, order)
  if not campaign.may_be_stopped then
    return false
  end
  local scopes = { '*', 'code:' .. order:match('%S+$') }
  for label in (redis.call('HGET', campaign.key, 'labels') or ''):gmatch('%S+') do
    scopes[#scopes + 1] = 'label:' .. label
  end
  for _, record in ipairs(redis.call('HMGET', campaign.stops, unpack(scopes))) do
    if record then
      return true
    end
  end
  return false
end

-- Why a campaign that is not active takes nothing, whatever its times say.
local function idle(campaign)
  if campaign.state == 'draft' then
    return refuse(REASON.CAMPAIGN_NOT_STARTED)
  elseif campaign.state == 'archiving' or campaign.state == 'archived' then
    return refuse(REASON.CAMPAIGN_ENDED)
  end
  return refuse(REASON.CAMPAIGN_PAUSED)
end

-- What speaks against an item before anything is counted, in order of precedence; nil for nothing. The campaign's rules
-- and its times were judged by the caller: item.refusal, '' for none. That holds from item.from_ms until before
-- item.until_ms; at any other time by this store's clock the answer is "T <time in ms>": judge again. "E": reservations
-- whose time is over were given back, and there may be more: ask again.
local function objection(campaign, item, standing, now)
  if not campaign then
    return 'U'
  end
  if campaign.is_crowded then
    return 'E'
  end
  if standing and not gives_way(standing) then
    return standing_answer(standing, item)
  end
  if campaign.version ~= item.version then
    return 'S'
  end
  if is_stopped(campaign, item.order) then
    return refuse(REASON.KILL_SWITCH_ENGAGED)
  end
  if is_disabled(campaign, item.order) then
    return refuse(REASON.CODE_DISABLED)
  end
  if campaign.state ~= 'active' then
    return idle(campaign)
  end
  if now < item.from_ms or now >= item.until_ms then
    return 'T ' .. integer(now)
  end
  if item.refusal ~= '' then
    return item.refusal
  end
  return nil
end

-- The counters that the lists of takes are about, as if the order had not got its reservations `own`.
local function load_without(campaign, own, lists, now)
  local counts = {}
  for i, hold in ipairs(own) do
    counts[i] = counted(hold)
    lists[#lists + 1] = counts[i]
  end
  local counters = load_counters(campaign.counters, now, lists)
  for i, hold in ipairs(own) do
    change_counters(counters, counts[i], -1, hold.taken_ms)
  end
  return counters
end

-- Why the item is not taken now; or nil when nothing speaks against it. Then also what take_use needs: its takes, and the
-- counters without the order's reservations `own`.
local function consider(campaign, item, standing, own, now)
  local answer = objection(campaign, item, standing, now)
  if answer then
    return answer
  end
  local takes = parse_takes(item.takes)
  local counters = load_without(campaign, own, { takes }, now)
  return misfit(counters, takes), takes, counters
end

-- The order's own reservation of a code, if it has one, has given way to another use.
local function end_replaced(campaign, order, own, now)
  if own then
    redis.call('ZREM', campaign.holds, order)
    add_event(campaign.outbox, 'released', campaign.id, ending_body(own), now)
  end
end

-- Counts the use that `consider` had no objection to, and to which the order's own reservation of the code gives way.
local function take_use(campaign, item, takes, counters, own, now)
  change_counters(counters, takes, 1, now)
  store_counters(counters)
  end_replaced(campaign, item.order, own, now)
end

-- `place` is where the event lies that tells of it, '-' for nowhere; `own` the order's own reservation that gave way, nil for
-- none.
local function held_answer(hold, place, own)
  local answer = table.concat({ 'H', integer(hold.taken_ms), integer(hold.expire_ms), epoch, place }, ' ')
  return own and answer .. ' ' .. own.reservation or answer
end

-- Holds items of one campaign and order for the transaction or the reservation that `hold` names, all or none. They count
-- beside each other, and the order's own reservations of all of them give way in the same step: none of those is in the
-- way of another item, and nobody else gets what comes back before it is taken again. `known` tells of what the order has
-- of a code whether that is an answer already; `kept` is called with each item that is held now, and answers the place of
-- its event. Answers held_answer for
-- each; or what speaks against an item as the last of the list, and then nothing is held.
local function hold_all(campaign, items, hold, now, known, kept)
  local standings, told, takes, own = {}, {}, {}, {}
  for i, item in ipairs(items) do
    local standing = campaign and read_standing(campaign, item.order)
    takes[i] = counted(item)
    if standing then
      standings[i], told[i] = standing, known(standing, item)
      if not told[i] and gives_way(standing) then
        own[#own + 1] = standing
      end
    end
  end
  local counters = campaign and load_without(campaign, own, { unpack(takes) }, now)
  local answers = {}
  hold.taken_ms = now
  for i, item in ipairs(items) do
    local answer = told[i]
    if not answer then
      answer = objection(campaign, item, standings[i], now) or misfit(counters, takes[i])
      if not answer then
        change_counters(counters, takes[i], 1, now)
        answer = held_answer(hold, '-', standings[i])
      end
    end
    answers[i] = answer
    if answer:sub(1, 1) ~= 'H' then
      return answers
    end
  end
  store_counters(counters)
  for i, item in ipairs(items) do
    if not told[i] then
      end_replaced(campaign, item.order, standings[i], now)
      hold.fingerprint, hold.takes, hold.body = item.fingerprint, item.takes, item.body
      keep_hold(campaign, item.order, hold)
      answers[i] = held_answer(hold, kept(item), standings[i])
    end
  end
  return answers
end
