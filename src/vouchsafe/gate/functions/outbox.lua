-- Purpose: the outbox: event reads one entry, trim removes what the ledger holds.
-- KEYS:    1 meta, 2 outbox
-- ARGV:    1 token
--          event: 2 the stream id
--          trim: 2 the first stream id to keep
-- Returns: event: the fields of the entry as a flat list, or false when it is not there (any more).
--          trim: how many entries were removed.
-- Writes:  event: nothing. trim: outbox.

register('event', function(keys, args)
  local entry = redis.call('XRANGE', keys[2], args[2], args[2])[1]
  return entry and entry[2] or false
end, { 'no-writes' })

register('trim', function(keys, args)
  return redis.call('XTRIM', keys[2], 'MINID', args[2])
end)
