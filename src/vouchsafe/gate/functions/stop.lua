-- Purpose: the kill switch. stop ends redeeming in a partition at once, whatever else is held there, for a scope: "*",
--          "label:<label>" or "code:<code>"; release_stop lets it go on. stops says what is engaged, labelled which
--          campaigns have a label.
-- KEYS:    1 meta
--          stop: 2 outbox, 3 pending, 4 stops, 5 labels
--          release_stop: 2 outbox, 3 stops
--          stops: 2 stops
--          labelled: 2 labels
-- ARGV:    1 token
--          stop: 2 scope, 3 what is kept of it, 4 body of the event
--          release_stop: 2 scope, 3 body of the event
--          labelled: 2 label
-- Returns: stop: the parts of transactions that are held and concerned, each as pending names it: nothing more is admitted
--            then, but the event is only written once they are settled. Empty when it is engaged.
--          release_stop: 1 when it was engaged, else 0
--          stops: flat pairs of scopes and what is kept of them
--          labelled: ids of campaigns
-- Writes:  stop: stops, and one event when it was not engaged before. release_stop: stops and one event.

local function has_label(labels, label)
  return (' ' .. labels .. ' '):find(' ' .. label .. ' ', 1, true) ~= nil
end

local function concerns(scope, campaign_id, code, labels)
  local kind, name = scope:match('^(%l+):(.*)$')
  if kind == 'code' then
    return code == name
  elseif kind == 'label' then
    return has_label(redis.call('HGET', labels, campaign_id) or '', name)
  end
  return true
end

register('stop', function(keys, args)
  local outbox, pending, stops, labels, scope = keys[2], keys[3], keys[4], keys[5], args[2]
  if (redis.call('HGET', stops, scope) or ''):sub(1, 1) == ENGAGED then
    return {}
  end
  local parts = held_parts(pending, function(campaign_id, code)
    return concerns(scope, campaign_id, code, labels)
  end)
  redis.call('HSET', stops, scope, (#parts > 0 and ENGAGING or ENGAGED) .. args[3])
  if #parts == 0 then
    add_event(outbox, 'kill_engaged', '', args[4], now_ms())
  end
  return parts
end, { 'allow-oom' }) -- a full store must still be stoppable

register('release_stop', function(keys, args)
  local released = redis.call('HDEL', keys[3], args[2])
  if released == 1 then
    add_event(keys[2], 'kill_released', '', args[3], now_ms())
  end
  return released
end, { 'allow-oom' })

register('stops', function(keys)
  return redis.call('HGETALL', keys[2])
end, { 'no-writes' })

register('labelled', function(keys, args)
  local ids, flat = {}, redis.call('HGETALL', keys[2])
  for i = 1, #flat, 2 do
    if has_label(flat[i + 1], args[2]) then
      ids[#ids + 1] = flat[i]
    end
  end
  return ids
end, { 'no-writes' })
