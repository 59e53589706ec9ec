-- Purpose: opens a partition: inspect says what is there, open lets it decide under a token from now on. What opens it
--          must have held it against the ledger before (service/recover.py). fence tells a partition which epochs others
--          have begun: no transaction is decided here any more of which a part was held there before.
-- KEYS:    1 meta
--          inspect: 2 outbox, 3 trimmed, 4 run
--          open: 2 run, 3 fences, 4 stops
--          fence: 2 outbox, 3 fences
-- ARGV:    inspect: none
--          open: 1 token, "<installation>:<epoch>"; 2 what stood at meta when it was inspected, '' for nothing; 3 the run
--          of the process that was inspected; 4 number of partitions, then the epoch of each, the first one's first; then
--          the scopes of the kill switches that are engaged, each with what is kept of it (stop.lua)
--          fence: 1 what stands at meta, then the epoch of each partition
-- Returns: inspect: what stands at meta, '' for nothing; the token under which it is open in this process, '' for none;
--          the id that the outbox gave last; the first id that was not trimmed off it, '' if none ever was; the run of the
--          process that opened it; the run of this process; the time in ms
--          open: 1, or 0 when it is not any more as it was inspected
--          fence: the id that the outbox gave last, or '' when something else stands at meta
-- Writes:  open: meta, run, fences, and stops that are not there. fence: fences. open also notes in memory that the
--          partition is open.

local function run_of_this_process()
  return redis.call('INFO', 'server'):match('run_id:(%x+)')
end

-- The id that a stream gave last, trimmed or not.
local function last_event(outbox)
  local stream = redis.pcall('XINFO', 'STREAM', outbox)
  for i = 1, #stream, 2 do
    if stream[i] == 'last-generated-id' then
      return stream[i + 1]
    end
  end
  return '0-0' -- no such key: there was none
end

register_plainly('inspect', function(keys)
  return {
    redis.call('GET', keys[1]) or '',
    opened[keys[1]] or '',
    last_event(keys[2]),
    redis.call('GET', keys[3]) or '',
    redis.call('GET', keys[4]) or '',
    run_of_this_process(),
    integer(now_ms()),
  }
end, { 'no-writes' })

-- Epochs only go up, whoever comes late.
local function raise_fences(fences, epochs, first, last)
  for i = first, last do
    local partition = i - first
    if tonumber(epochs[i]) > tonumber(redis.call('HGET', fences, partition) or 0) then
      redis.call('HSET', fences, partition, epochs[i])
    end
  end
end

register_plainly('fence', function(keys, args)
  if redis.call('GET', keys[1]) ~= args[1] then
    return ''
  end
  raise_fences(keys[3], args, 2, #args)
  return last_event(keys[2])
end)

register_plainly('open', function(keys, args)
  local token, found, run = args[1], args[2], args[3]
  if (redis.call('GET', keys[1]) or '') ~= found or run_of_this_process() ~= run then
    return 0
  end
  redis.call('SET', keys[1], token)
  redis.call('SET', keys[2], run)
  local last = 4 + tonumber(args[4])
  raise_fences(keys[3], args, 5, last)
  for i = last + 1, #args, 2 do
    redis.call('HSETNX', keys[4], args[i], ENGAGED .. args[i + 1])
  end
  opened[keys[1]] = token
  return 1
end)
