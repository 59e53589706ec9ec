-- Purpose: a campaign's hot state: publish enters a definition, set_state takes a step of its life (docs/campaign-life.md),
--          describe reads; definition reads only what never changes of a version.
-- KEYS:    1 meta
--          publish: 2 campaign, 3 counters, 4 labels
--          set_state: 2 outbox, 3 pending, 4 to 8 as for each campaign in orders.lua
--          describe: 2 outbox, then for each campaign asked for 5 (orders.lua)
--          definition: then for each campaign asked for its campaign
-- ARGV:    1 token
--          publish: 2 version, 3 definition, 4 created_ms, 5 labels with spaces between them, 6 campaign id, 7 state
--            (as kept, see set_state) and 8 pause_reason of a campaign that is new here
--          set_state: 2 campaign id, 3 the step, which is the kind of its event: "paused", "resumed", "scheduled" (a draft
--            goes live) or "archived", 4 reason, 5 body of the event, 6 when a pause ends by itself in ms, '' for never; of
--            "resumed" the pause that it is the end of, by the same time, '' for any, 7 the turn of a planned change, ''
--            for a step that somebody takes by hand, 8 the plan that the change is of, '' for none. With a plan and no turn
--            "paused" hands the pause that stands over to the plan, if it has this reason and this end. 9 when the plan ends
--            the pause that it begins, in ms, '' for never
--          describe: then the id of each campaign
-- Returns: publish: 1 when the definition was taken, 0 when this version or a later one stands already.
--          set_state: the campaign's fields in the order of FIELDS, then those of COUNTED ('' for one that is not
--            counted), then the time in ms; or false when there is none; or where the campaign is in its life, if the step
--            cannot be taken from there; or "other" when the pause to be ended is not the one that stands, or a plan has
--            to leave the one that stands alone; or, when it stops a campaign of which parts of transactions are held, the
--            list of those parts, each as pending names it: it admits nothing any more then, but the event is only written
--            once they are settled.
--          describe: as set_state for each campaign.
--          definition: for each campaign version, definition and created_ms, or false when there is none.
-- Writes:  publish: campaign, counters and labels; never the counters or the state of one that stands.
--          set_state: campaign and one event, unless the campaign is in that state already. It keeps "draft", "active",
--            "paused" or "archived", and in between "pausing" or "archiving". A planned change always has its event, once:
--            a turn that is not above the campaign's last one changes nothing, and the one in other_turn was answered
--            "other", whatever stands by now. A pause without pause_plan is by hand; so is any that was made by a release
--            which did not know of plans.
--          set_state and describe: what loading a campaign writes (orders.lua).
--          definition: nothing, and Valkey holds it to that.

local FIELDS = { 'version', 'definition', 'created_ms', 'state', 'pause_reason', 'resume_ms' }
local COUNTED = { 'uses', 'money', '?distinct', 'held', 'held_money' }

-- A campaign that is being stopped admits nothing any more.
local STOPPING = { pausing = 'paused', archiving = 'archived' }

-- What each step makes of a campaign in each state of its life; what is not here cannot be done.
local STEPS = {
  paused = { scheduled = 'paused', active = 'paused', paused = 'paused', ended = 'paused' },
  resumed = { scheduled = 'active', active = 'active', paused = 'active', ended = 'active' },
  scheduled = { draft = 'active', scheduled = 'active', active = 'active', paused = 'paused', ended = 'active' },
  archived = {
    draft = 'archived',
    scheduled = 'archived',
    paused = 'archived',
    ended = 'archived',
    archived = 'archived',
  },
}

-- A pause that a plan has to leave alone: a planned resume ends only the pauses of its plan, and a planned pause takes the
-- place of one by hand only if that ends before it.
local function is_left_alone(step, pause_plan, resume_ms, plan, plan_end_ms)
  if step == 'resumed' then
    return pause_plan ~= plan
  end
  return pause_plan == ''
    and (resume_ms == '' or plan_end_ms ~= '' and tonumber(resume_ms) >= tonumber(plan_end_ms))
end

local function put_state(campaign, state, reason, resume_ms, plan)
  redis.call('HSET', campaign, 'state', state, 'pause_reason', reason)
  redis.call('HDEL', campaign, 'resume_ms', 'pause_plan')
  if resume_ms ~= '' then
    redis.call('HSET', campaign, 'resume_ms', resume_ms)
  end
  if plan ~= '' then
    redis.call('HSET', campaign, 'pause_plan', plan)
  end
end

-- Where a campaign is in its life: of one that is kept as active, its times say so.
local function life_of(state, definition, now)
  if state ~= 'active' then
    return STOPPING[state] or state
  end
  local times = cjson.decode(definition)
  local start_ms, end_ms = tonumber(times.start_time_ms), tonumber(times.end_time_ms)
  if end_ms and now >= end_ms then
    return 'ended'
  end
  return start_ms and now < start_ms and 'scheduled' or 'active'
end

-- Reservations whose time is over do not count; while there are very many of them, some still do.
local function describe(keys, first, id, outbox, now, room)
  local campaign, left = load_campaign(keys, first, id, outbox, now, room)
  if not campaign then
    return false, room
  end
  local described = redis.call('HMGET', keys[first], unpack(FIELDS))
  described[4] = STOPPING[described[4]] or described[4]
  described[6] = described[6] or ''
  for _, value in ipairs(redis.call('HMGET', keys[first + 1], unpack(COUNTED))) do
    described[#described + 1] = value or ''
  end
  described[#described + 1] = integer(now)
  return described, left
end

-- The parts of transactions that are held and concern something that stops: `concerns` is asked with campaign and code.
local function held_parts(pending, concerns)
  local parts = {}
  for _, part in ipairs(redis.call('ZRANGE', pending, 0, -1)) do
    local campaign_id, code = part:match('^(%S+) %S+ (%S+)')
    if concerns(campaign_id, code) then
      parts[#parts + 1] = part
    end
  end
  return parts
end

register('publish', function(keys, args)
  local standing = tonumber(redis.call('HGET', keys[2], 'version') or 0)
  if standing >= tonumber(args[2]) then
    return 0
  end
  redis.call(
    'HSET', keys[2],
    'version', args[2], 'definition', args[3], 'created_ms', args[4], 'labels', args[5]
  )
  if args[5] ~= '' then
    redis.call('HSET', keys[4], args[6], args[5])
  else
    redis.call('HDEL', keys[4], args[6])
  end
  if standing == 0 then
    redis.call('HSETNX', keys[3], 'uses', 0)
  end
  redis.call('HSETNX', keys[2], 'state', args[7])
  redis.call('HSETNX', keys[2], 'pause_reason', args[8])
  return 1
end)

register('set_state', function(keys, args)
  local now = now_ms()
  local campaign, step, reason, ends, turn, plan = keys[4], args[3], args[4], args[6], args[7], args[8]
  local found = redis.call(
    'HMGET', campaign,
    'state', 'definition', 'resume_ms', 'pause_plan', 'turn', 'other_turn', 'pause_reason'
  )
  local state, definition, resume_ms, pause_plan = found[1], found[2], found[3] or '', found[4] or ''
  if not state or not definition then
    return false
  end
  local function described()
    return (describe(keys, 4, args[2], keys[2], now, EXPIRED_AT_ONCE))
  end
  if turn ~= '' and tonumber(turn) <= tonumber(found[5] or 0) then
    return described()
  end
  local life = life_of(state, definition, now)
  local is_planned, is_paused = turn ~= '' and plan ~= '', life == 'paused'
  if
    turn ~= '' and turn == found[6]
    or step == 'resumed' and ends ~= '' and ends ~= resume_ms
    or is_planned and is_paused and is_left_alone(step, pause_plan, resume_ms, plan, args[9])
  then
    if turn ~= '' then
      redis.call('HSET', campaign, 'other_turn', turn)
    end
    return redis.status_reply('other')
  end
  local becomes = STEPS[step][life]
  if not becomes then
    return redis.status_reply(life)
  end
  local is_handed_over = plan ~= '' and turn == ''
  if is_handed_over and not (is_paused and reason == found[7] and ends == resume_ms) then
    return described()
  end
  local is_another_pause = step == 'paused' and (ends ~= resume_ms or plan ~= pause_plan)
  if state ~= becomes or is_another_pause or turn ~= '' then
    local pause = step == 'paused' and { reason, ends, plan } or { '', '', '' }
    if state ~= becomes and becomes ~= 'active' then
      local parts = held_parts(keys[3], function(campaign_id)
        return campaign_id == args[2]
      end)
      if #parts > 0 then
        put_state(campaign, becomes == 'paused' and 'pausing' or 'archiving', unpack(pause))
        return { parts }
      end
    end
    put_state(campaign, becomes, unpack(pause))
    if turn ~= '' then
      redis.call('HSET', campaign, 'turn', turn)
    end
    add_event(keys[2], step, args[2], args[5], now)
  end
  return described()
end, { 'allow-oom' }) -- a full store must still be stoppable

register('describe', function(keys, args)
  local now = now_ms()
  local campaigns, room = {}, EXPIRED_AT_ONCE
  for i = 2, #args do
    campaigns[i - 1], room = describe(keys, 3 + (i - 2) * KEYS_PER_CAMPAIGN, args[i], keys[2], now, room)
  end
  return campaigns
end, { 'allow-oom' }) -- it only gives back

register('definition', function(keys)
  local found = {}
  for i = 2, #keys do
    local fields = redis.call('HMGET', keys[i], 'version', 'definition', 'created_ms')
    found[i - 1] = fields[1] and fields
  end
  return found
end, { 'no-writes' })
