-- Purpose: the outbox: `event` reads entries, `trim` removes what the ledger holds; `add_event` is how all others write.
-- KEYS:    1 meta, 2 outbox
--          trim: 3 trimmed
-- ARGV:    1 token
--          event: then the stream ids
--          trim: 2 the first stream id to keep
-- Returns: event: for each id the fields of the entry as a flat list, or false when it is not there (any more).
--          trim: how many entries were removed.
-- Writes:  event: nothing. trim: outbox, trimmed.

-- Answers the id of the entry.
local function add_event(outbox, kind, campaign_id, body, now)
  return redis.call(
    'XADD', outbox, '*',
    'kind', kind, 'epoch', epoch, 'at', integer(now), 'campaign', campaign_id, 'body', body
  )
end

register('event', function(keys, args)
  local events = {}
  for i = 2, #args do
    local entry = redis.call('XRANGE', keys[2], args[i], args[i])[1]
    events[i - 1] = entry and entry[2] or false
  end
  return events
end, { 'no-writes' })

register('trim', function(keys, args)
  redis.call('SET', keys[3], args[2])
  return redis.call('XTRIM', keys[2], 'MINID', args[2])
end, { 'allow-oom' }) -- it is what makes room again
