-- Purpose: what the functions of this library share: the reasons, the clock, the check of the token, registration.
-- KEYS:    none; this file registers no function.
-- ARGV:    none.
-- Returns: nothing.
-- Writes:  nothing.

local REASON = {
  ORDER_ALREADY_REDEEMED = 20,
  KILL_SWITCH_ENGAGED = 105,
  CODE_DISABLED = 107,
  CAMPAIGN_PAUSED = 110,
  CAMPAIGN_NOT_STARTED = 120,
  CAMPAIGN_ENDED = 130,
}

local FINGERPRINT_LENGTH = 32

-- What is kept of a kill switch begins with one of these: what is held is being settled; it is engaged (stop.lua).
local ENGAGING, ENGAGED = 'B', 'E'

-- The store's clock in milliseconds; it stands still during a call.
local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Numbers beyond 10^14 would be written in exponent form by tostring.
local function integer(number)
  return string.format('%.0f', number)
end

-- A refusal as it is answered and remembered: "N <reason> <key>=<value> ...". The caller's own are
-- "N <reason> <JSON>".
local function refuse(reason, ...)
  return table.concat({ 'N', reason, ... }, ' ')
end

-- The token under which each partition is open, by the key of the token. This is memory of the process, not data: after
-- a restart, on a promoted replica, with data from elsewhere there is none, and nothing is decided until somebody has
-- held the partition against the ledger (open.lua).
local opened = {}

-- The epoch of the call that runs.
local epoch

local function is_open(meta, token)
  return opened[meta] == token and redis.call('GET', meta) == token
end

local function register_plainly(name, callback, flags)
  redis.register_function({ function_name = name .. '_' .. LIBRARY_VERSION, callback = callback, flags = flags or {} })
end

-- Registers a function that runs only when the partition is open under the token that the caller names: a partition
-- that was flushed, restored from elsewhere or fenced off decides nothing. Every function takes the key of the token
-- as KEYS[1] and the token as ARGV[1].
local function register(name, callback, flags)
  register_plainly(name, function(keys, args)
    local token = args[1]
    if not is_open(keys[1], token) then
      return redis.error_reply('CLOSED the partition is not open under this token')
    end
    epoch = token:match('%d+$')
    return callback(keys, args)
  end, flags)
end
