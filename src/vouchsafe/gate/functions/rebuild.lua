-- Purpose: makes a partition anew out of what the ledger holds. From build until it is opened (open.lua) "building
--          <token>" stands at meta: nobody decides anything, and only who has begun that epoch writes. All but build,
--          clear and restore_part may be called piece by piece, in the order of the events.
-- KEYS:    1 meta
--          clear: then the keys to remove
--          restore_outbox: 2 outbox, 3 trimmed
--          restore_fields: 2 a hash
--          restore_codes and restore_given: as put_codes and give_codes (codes.lua)
--          restore_strings: then strings
--          restore_amounts and restore_counters: 2 counters
--          restore_orders: 2 holding, 3 to 7 as for each campaign in orders.lua
--          restore_part: 2 outbox, 3 pending, 4 to 8 as for each campaign in orders.lua
-- ARGV:    1 token, "<installation>:<epoch>"
--          build: 2 what stood at meta when it was inspected, '' for nothing; 3 the run of the process that was inspected
--          restore_outbox: 2 the last id that the ledger holds, 3 the first that it does not
--          restore_fields: then fields and values
--          restore_codes and restore_given: as put_codes and give_codes (codes.lua)
--          restore_strings: then for each its value, and when it expires in ms, 0 for never
--          restore_amounts: then plain counters and by how much they change
--          restore_counters: then counters and changes: an amount, or "+<ms>" and "-<ms>" for moments ("~x"). "?x:y" stands
--            behind "x:y" and has no change of its own.
--          restore_orders: 2 campaign id, then "<order id> <code>" and what becomes of it: what is kept of a redemption
--            ("R", as in orders.lua), "H" and a hold as a JSON list of HOLD_FIELDS, "D" for nothing any more; "B <place>" if
--            it is the redemption at that place, nothing any more, "P <place>" the same, not whole any more
--          restore_part: 2 campaign id, 3 "<order id> <code>", 4 fingerprint, 5 takes, 6 when they were taken in ms, 7 the id
--            of the redemption, 8 the body of the event, 9 the reservation that it was, '' for none, 10 its transaction
-- Returns: build: 1, or 0 when it is not any more as it was inspected. All others: 1.
-- Writes:  what it is called for; restore_part: counters, orders, holds, pending and one event, as settling a part does,
--          whether it is still held or not.

local function register_building(name, callback)
  register_plainly(name, function(keys, args)
    if redis.call('GET', keys[1]) ~= 'building ' .. args[1] then
      return redis.error_reply('CLOSED somebody else has the partition')
    end
    epoch = args[1]:match('%d+$')
    callback(keys, args)
    return 1
  end)
end

register_plainly('build', function(keys, args)
  if (redis.call('GET', keys[1]) or '') ~= args[2] or run_of_this_process() ~= args[3] then
    return 0
  end
  redis.call('SET', keys[1], 'building ' .. args[1])
  opened[keys[1]] = nil
  return 1
end)

register_building('clear', function(keys)
  redis.call('UNLINK', unpack(keys, 2))
end)

register_building('restore_outbox', function(keys, args)
  -- An empty stream remembers the id that it gave last.
  redis.call('XADD', keys[2], args[2], 'kind', 'restored')
  redis.call('XTRIM', keys[2], 'MAXLEN', 0)
  redis.call('SET', keys[3], args[3])
end)

register_building('restore_fields', function(keys, args)
  redis.call('HSET', keys[2], unpack(args, 2))
end)

register_building('restore_codes', put_codes)
register_building('restore_given', give_codes)

register_building('restore_strings', function(keys, args)
  for i = 2, #keys do
    local value, expire_ms = args[2 * i - 2], args[2 * i - 1]
    if expire_ms == '0' then
      redis.call('SET', keys[i], value)
    else
      redis.call('SET', keys[i], value, 'PXAT', expire_ms)
    end
  end
end)

-- Most of what there is to write, and nearly always the first of its counter.
register_building('restore_amounts', function(keys, args)
  local fields, writes, gone = {}, {}, {}
  for i = 2, #args, 2 do
    fields[i / 2] = args[i]
  end
  for i, value in ipairs(redis.call('HMGET', keys[2], unpack(fields))) do
    local amount = args[2 * i + 1]
    if value then
      amount = integer(value + amount)
    end
    if amount ~= '0' or fields[i] == 'uses' then
      writes[#writes + 1] = fields[i]
      writes[#writes + 1] = amount
    else
      gone[#gone + 1] = fields[i]
    end
  end
  if #writes > 0 then
    redis.call('HSET', keys[2], unpack(writes))
  end
  if #gone > 0 then
    redis.call('HDEL', keys[2], unpack(gone))
  end
end)

local function change_moments(moments, changes)
  for sign, moment in changes:gmatch('([+-])(%d+)') do
    if sign == '+' then
      moments[#moments + 1] = moment
    else
      remove_moment(moments, moment)
    end
  end
end

register_building('restore_counters', function(keys, args)
  local fields = {}
  for i = 2, #args, 2 do
    local field = args[i]
    fields[i / 2] = field:byte() == DISTINCT and field:match('^[^:]*') or field
  end
  local found = redis.call('HMGET', keys[2], unpack(fields))
  local values, changed, before = {}, {}, {}
  for i, field in ipairs(fields) do
    if not values[field] then
      values[field] = field:byte() == MOMENTS and recent(found[i] or '', 0) or tonumber(found[i] or 0)
      before[field] = values[field]
    end
    local change = args[2 * i + 1]
    if field:byte() == MOMENTS then
      change_moments(values[field], change)
    elseif field:byte() == DISTINCT then
      local of = args[2 * i]:sub(2)
      values[field] = values[field] + (values[of] > 0 and 1 or 0) - (before[of] > 0 and 1 or 0)
    else
      values[field] = values[field] + change
    end
    changed[field] = true
  end
  store_counters({ key = keys[2], values = values, changed = changed })
end)

local function restore_hold(keys, campaign, order, text)
  local hold = {}
  for i, value in ipairs(cjson.decode(text)) do
    hold[HOLD_FIELDS[i]] = value
  end
  keep_hold(campaign, order, hold)
  redis.call('ZADD', keys[2], 'LT', hold.expire_ms, campaign.id)
end

register_building('restore_orders', function(keys, args)
  local campaign = campaign_at(keys, 3, args[2])
  local has_holds = redis.call('EXISTS', campaign.holds) == 1
  local redeemed = {}
  for i = 3, #args, 2 do
    local order, what = args[i], args[i + 1]
    local kind = what:sub(1, 1)
    if kind == 'R' then
      redeemed[#redeemed + 1] = order
      redeemed[#redeemed + 1] = what
    elseif kind == 'H' then
      restore_hold(keys, campaign, order, what:sub(2))
      has_holds = true
    elseif kind == 'D' then
      redis.call('HDEL', campaign.orders, order)
    else
      local standing = read_standing(campaign, order)
      if standing and standing.place == what:sub(3) then
        if kind == 'B' then
          redis.call('HDEL', campaign.orders, order)
        else
          keep_redeemed(campaign, order, NO_FINGERPRINT, standing.place)
        end
      end
    end
    if has_holds and kind ~= 'H' then
      redis.call('ZREM', campaign.holds, order)
    end
  end
  if #redeemed > 0 then
    redis.call('HSET', campaign.orders, unpack(redeemed))
  end
end)

register_building('restore_part', function(keys, args)
  local campaign, order = campaign_at(keys, 4, args[2], keys[2]), args[3]
  local now = now_ms()
  local takes, sign, body = parse_takes(args[5]), 1, args[8]
  local standing = read_standing(campaign, order)
  if standing and standing.place == args[7] then
    return
  end
  if standing and standing.held then
    if standing.transaction ~= '' then
      set_pending(keys[3], campaign, order, standing, false)
    end
    if standing.transaction == args[10] or args[9] ~= '' and standing.reservation == args[9] then
      -- It has counted since it was held.
      takes, sign = held_takes(takes), -1
      redis.call('ZREM', campaign.holds, order)
      if standing.reservation ~= '' then
        body = body:sub(1, -2) .. ',"reservation_id":"' .. standing.reservation .. '"}'
      end
    else
      give_up(campaign, order, standing, 'released', now)
    end
  end
  local counters = load_counters(campaign.counters, now, { takes })
  change_counters(counters, takes, sign, tonumber(args[6]))
  store_counters(counters)
  keep_redeemed(campaign, order, args[4], args[7])
  add_event(campaign.outbox, 'redeemed', campaign.id, body, now)
end)
