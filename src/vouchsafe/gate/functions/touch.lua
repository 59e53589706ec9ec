-- Purpose: a write that an exchange makes only to have one: WAIT and WAITAOF wait for the last write of their own
--          connection, and what only repeats a recorded answer writes nothing.
-- KEYS:    1 meta, 2 touched
-- ARGV:    1 token
-- Returns: 1
-- Writes:  touched.

register('touch', function(keys)
  redis.call('SET', keys[2], '')
  return 1
end, { 'allow-oom' }) -- a full store must still be stoppable
