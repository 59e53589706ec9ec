-- Purpose: counts failed codes. Each takes a token from its buckets; tokens come back with time, by this store's clock. Of a
--          bucket only is kept when it will be full again: for every interval until then a token is missing.
-- KEYS:    1 meta, then for each item its bucket
-- ARGV:    1 token, then for each item 3 values: how many tokens a full bucket has, in how many ms one comes back, how
--          many are to be taken (no more than are there)
-- Returns: for each item "<how many were taken> <when the bucket is full again, in ms> <time in ms>"
-- Writes:  the buckets; each expires when it is full again.

register('take_tokens', function(keys, args)
  local now, answers = now_ms(), {}
  for i = 2, #keys do
    local at = 3 * i - 4
    local burst, interval, wanted = tonumber(args[at]), tonumber(args[at + 1]), tonumber(args[at + 2])
    -- Never emptier than empty: the clock may have been set back, or the bucket made smaller.
    local full = math.min(math.max(tonumber(redis.call('GET', keys[i]) or now), now), now + burst * interval)
    local taken = math.min(wanted, math.floor((now + burst * interval - full) / interval))
    if taken > 0 then
      full = full + taken * interval
      redis.call('SET', keys[i], integer(full), 'PXAT', integer(full))
    end
    answers[i - 1] = table.concat({ integer(taken), integer(full), integer(now) }, ' ')
  end
  return answers
end)
