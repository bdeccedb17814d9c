-- KEYS: record, leases, watch, marker, a counter per claim
-- ARGV: tag, the caller's clock in ms, lease in ms, the marker that the caller trusts, and the claims
-- -> {tag, 'granted', level after each claim...} | {tag, 'denied', index from 0, level} | {tag, 'clock', ms}
--    | {tag, 'closed'}
local FIRST_KEY, FIRST_ARG = 5, 5
local tag, record_key, leases, watch = ARGV[1], KEYS[1], KEYS[2], KEYS[3]
local lease_ms = integer(ARGV[3])
local claims = #KEYS - FIRST_KEY + 1
local now = now_ms()
if is_off(ARGV[2], now) then return {tag, 'clock', now} end
local known = redis.call('MGET', record_key, KEYS[4])
if known[2] ~= ARGV[4] then return {tag, 'closed'} end

local levels, wanted

local function read_levels()
  levels = {}
  for i = FIRST_KEY, #KEYS do
    local key = KEYS[i]
    levels[key] = levels[key] or level(key)
    if not levels[key] then
      reclaim(key, 'hash', KEYS[4])
      return false
    end
  end
  return true
end

local function first_without_room()
  wanted = {}
  for i = 1, claims do
    local key = KEYS[FIRST_KEY + i - 1]
    local arg = FIRST_ARG + (i - 1) * CLAIM
    local limit = integer(ARGV[arg + 2])
    wanted[key] = (wanted[key] or 0) + integer(ARGV[arg])
    if ARGV[arg + 3] == 'deny' and (limit == 0 or levels[key] + wanted[key] > limit) then return i end
  end
end

local function granted(after)
  local reply = {tag, 'granted'}
  for i = 1, claims do
    local key = KEYS[FIRST_KEY + i - 1]
    reply[i + 2] = levels[key] + (after[key] or 0)
  end
  return reply
end

if not read_levels() then return {tag, 'closed'} end
if known[1] then return granted({}) end

local refused = first_without_room()
if refused and expire_due(watch, leases, now) > 0 then
  read_levels()
  refused = first_without_room()
end
if refused then return {tag, 'denied', refused - 1, levels[KEYS[FIRST_KEY + refused - 1]]} end
hold(record_key, leases, FIRST_KEY, FIRST_ARG, now + lease_ms)
return granted(wanted)
