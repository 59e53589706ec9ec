-- Purpose: the directory of codes: put_codes enters codes, resolve looks them up.
-- KEYS:    1 meta, 2 codes
-- ARGV:    1 token
--          put_codes: then for each code 2 values: the code, "<use limit, 0 for none> <campaign id>" and, if it was given
--            to a customer, " <holder> <when in ms>"
--          resolve: then the codes
-- Returns: put_codes: how many codes are new; resolve: for each code its entry, or false when there is none.
-- Writes:  put_codes: codes. resolve: nothing.

register('put_codes', function(keys, args)
  local added = 0
  for i = 2, #args, 2 do
    added = added + redis.call('HSET', keys[2], args[i], args[i + 1])
  end
  return added
end)

register('resolve', function(keys, args)
  local entries = {}
  for i = 2, #args do
    entries[i - 1] = redis.call('HGET', keys[2], args[i])
  end
  return entries
end, { 'no-writes' })
