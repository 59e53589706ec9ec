-- Purpose: disables and enables single codes, in the partition of their campaign, where they are decided; says how it
--          stands with them.
-- KEYS:    1 meta
--          set_code_state: 2 outbox, 3 pending, 4 campaign
--          look_at_codes: 2 campaign, 3 counters
-- ARGV:    1 token
--          set_code_state: 2 campaign id, 3 code, 4 "disabled" or "enabled", 5 reason, 6 kind and 7 body of the event
--          look_at_codes: then the codes
-- Returns: set_code_state: 1; 0 when the campaign is not here; or, when it stops a code of which parts of transactions are
--            held, the list of those parts, each as pending names it: it admits nothing any more then, but the event is
--            only written once they are settled.
--          look_at_codes: for each code how often it is used (held uses with it), and why it is disabled, or false
-- Writes:  set_code_state: campaign and one event, unless the code is in that state already. look_at_codes: nothing.

register('set_code_state', function(keys, args)
  local now, campaign, field = now_ms(), keys[4], 'disabled ' .. args[3]
  if redis.call('HEXISTS', campaign, 'version') == 0 then
    return 0
  end
  -- "S" and the reason while it is being stopped, then "D" and the reason.
  local standing = redis.call('HGET', campaign, field)
  if args[4] == 'disabled' then
    if standing and standing:sub(1, 1) == 'D' then
      return 1
    end
    if not standing then
      redis.call('HINCRBY', campaign, 'disabled', 1)
    end
    local parts = held_parts(keys[3], function(campaign_id, code)
      return campaign_id == args[2] and code == args[3]
    end)
    redis.call('HSET', campaign, field, (#parts > 0 and 'S' or 'D') .. args[5])
    if #parts > 0 then
      return parts
    end
    add_event(keys[2], args[6], args[2], args[7], now)
  elseif standing then
    redis.call('HINCRBY', campaign, 'disabled', -1)
    redis.call('HDEL', campaign, field)
    if standing:sub(1, 1) == 'D' then
      add_event(keys[2], args[6], args[2], args[7], now)
    end
  end
  return 1
end, { 'allow-oom' }) -- a full store must still be stoppable

register('look_at_codes', function(keys, args)
  local found = {}
  for i = 2, #args do
    local disabled = redis.call('HGET', keys[2], 'disabled ' .. args[i])
    found[i - 1] = { redis.call('HGET', keys[3], 'code:' .. args[i]) or '0', disabled and disabled:sub(2) }
  end
  return found
end, { 'no-writes' })
