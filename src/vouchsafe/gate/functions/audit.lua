-- Purpose: reads counters of a campaign to be held against the book of events. All that one call answers is of one
--          moment, so each counter is what the events up to the last one say, and what the parts say that are held.
-- KEYS:    1 meta, 2 outbox, 3 pending, 4 counters, 5 orders
-- ARGV:    1 token, 2 campaign id
--          scan_counters: 3 cursor, "0" to begin, 4 how many, about
--          read_counters: then counters
-- Returns: a list of 5: the id of the partition's last event; the time in ms; the cursor to go on from, "0" after the last
--          (read_counters: always); counters and their values ('' for none) as flat pairs; for each part of a
--          transaction that counts and has no event yet flat pairs of when it was taken in ms and its body
-- Writes:  nothing.

-- A part that belongs to a reservation has an event already.
local function uncounted_parts(pending, orders, campaign_id)
  local parts = {}
  local of_campaign = held_parts(pending, function(of)
    return of == campaign_id
  end)
  for _, part in ipairs(of_campaign) do
    local hold = read_standing({ orders = orders }, part:match('^%S+ (%S+ %S+) '))
    if hold and hold.held and hold.reservation == '' then
      parts[#parts + 1] = integer(hold.taken_ms)
      parts[#parts + 1] = hold.body
    end
  end
  return parts
end

local function as_of_now(keys, args, cursor, counters)
  return { last_event(keys[2]), integer(now_ms()), cursor, counters, uncounted_parts(keys[3], keys[5], args[2]) }
end

register('scan_counters', function(keys, args)
  local found = redis.call('HSCAN', keys[4], args[3], 'COUNT', args[4])
  return as_of_now(keys, args, found[1], found[2])
end, { 'no-writes' })

register('read_counters', function(keys, args)
  local values = redis.call('HMGET', keys[4], unpack(args, 3))
  local counters = {}
  for i, value in ipairs(values) do
    counters[2 * i - 1] = args[2 + i]
    counters[2 * i] = value or ''
  end
  return as_of_now(keys, args, '0', counters)
end, { 'no-writes' })
