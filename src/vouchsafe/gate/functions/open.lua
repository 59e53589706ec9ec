-- Purpose: opens a partition that was never opened, by setting its token.
-- KEYS:    1 meta
-- ARGV:    1 token, "<installation>:<epoch>"
-- Returns: 1 when the partition is open under this token now, 0 when it is open under another.
-- Writes:  meta, if it was absent.

redis.register_function({
  function_name = 'open_' .. LIBRARY_VERSION,
  callback = function(keys, args)
    local standing = redis.call('GET', keys[1])
    if not standing then
      redis.call('SET', keys[1], args[1])
      return 1
    end
    return standing == args[1] and 1 or 0
  end,
})
