-- Purpose: the directory of codes: put_codes and give_codes enter codes, resolve looks them up. A code is kept in few
--          bytes: in a small hash (a bucket, chosen by the caller), with its campaign's number and not its name.
-- KEYS:    1 meta, 2 numbers
--          put_codes: then the bucket of each code
--          give_codes, resolve: then for each code 2: its bucket, and that of what was given
-- ARGV:    1 token
--          put_codes: 2 campaign id, 3 use limit (0 for none), then the codes
--          give_codes: 2 campaign id, 3 use limit, then for each code 2 values: the code, "<holder> <when in ms> <first ms
--            at which it is not valid, 0 for none told>"
--          resolve: then the codes
-- Returns: put_codes and give_codes: how many codes are new; resolve: for each code "<use limit> <campaign id>" and what
--            it was given with, behind a space, if it was; or false when there is none.
-- Writes:  put_codes: numbers and buckets; what stands there stands, it may have been given meanwhile. give_codes: also
--          what was given. resolve: nothing.

local function number_of(numbers, campaign)
  local number = redis.call('HGET', numbers, campaign)
  if not number then
    number = integer(redis.call('HLEN', numbers) / 2 + 1)
    redis.call('HSET', numbers, campaign, number, '#' .. number, campaign)
  end
  return number
end

-- A number alone takes a byte or two, and most codes are just that: to be used once, given to nobody yet.
local function entry_of(numbers, campaign, use_limit)
  local number = number_of(numbers, campaign)
  return use_limit == '1' and number or number .. ':' .. use_limit
end

local function put_codes(keys, args)
  local entry, added = entry_of(keys[2], args[2], args[3]), 0
  for i = 4, #args do
    added = added + redis.call('HSETNX', keys[i - 1], args[i], entry)
  end
  return added
end

local function give_codes(keys, args)
  local entry, added = entry_of(keys[2], args[2], args[3]) .. 'g', 0
  for i = 4, #args, 2 do
    added = added + redis.call('HSET', keys[i - 1], args[i], entry)
    redis.call('HSET', keys[i], args[i], args[i + 1])
  end
  return added
end

register('put_codes', put_codes)
register('give_codes', give_codes)

register('resolve', function(keys, args)
  local entries = {}
  for i = 2, #args do
    local entry, found = redis.call('HGET', keys[2 * i - 1], args[i]), false
    if entry then
      local number, use_limit, given = entry:match('^(%d+):?(%d*)(g?)$')
      found = (use_limit == '' and '1' or use_limit) .. ' ' .. redis.call('HGET', keys[2], '#' .. number)
      if given == 'g' then
        found = found .. ' ' .. redis.call('HGET', keys[2 * i], args[i])
      end
    end
    entries[i - 1] = found
  end
  return entries
end, { 'no-writes' })
