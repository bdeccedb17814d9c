-- KEYS: record, leases, a counter per claim
-- ARGV: tag, the caller's clock in ms, lease in ms, and per claim: amount, limit, action, metric, expiry in unix s or ''
-- -> {tag, 'granted', level after each claim...} | {tag, 'denied', index from 0, level} | {tag, 'clock', ms}
local FIRST_KEY, FIRST_ARG, STRIDE = 3, 4, 5
local tag, record_key, leases = ARGV[1], KEYS[1], KEYS[2]
local caller_ms, lease_ms = integer(ARGV[2]), integer(ARGV[3])
local claims = #KEYS - FIRST_KEY + 1
local now = now_ms()
if math.abs(now - caller_ms) > CLOCK_TOLERANCE_MS then return {tag, 'clock', now} end

local levels, wanted

local function read_levels()
  levels = {}
  for i = 1, claims do
    local key = KEYS[FIRST_KEY + i - 1]
    if not levels[key] then levels[key] = level(key) end
  end
end

local function first_without_room()
  read_levels()
  wanted = {}
  for i = 1, claims do
    local key = KEYS[FIRST_KEY + i - 1]
    local arg = FIRST_ARG + (i - 1) * STRIDE
    local limit = integer(ARGV[arg + 1])
    wanted[key] = (wanted[key] or 0) + integer(ARGV[arg])
    if ARGV[arg + 2] == 'deny' and (limit == 0 or levels[key] + wanted[key] > limit) then return i end
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

if redis.call('EXISTS', record_key) == 1 then
  read_levels()
  return granted({})
end

local refused = first_without_room()
if refused and expire_due(leases, now) > 0 then refused = first_without_room() end
if refused then return {tag, 'denied', refused - 1, levels[KEYS[FIRST_KEY + refused - 1]]} end

local entries = {}
for i = 1, claims do
  local key = KEYS[FIRST_KEY + i - 1]
  local arg = FIRST_ARG + (i - 1) * STRIDE
  local amount, metric, expiry = ARGV[arg], ARGV[arg + 3], ARGV[arg + 4]
  redis.call('HINCRBY', key, 'r', amount)
  expire_at(key, expiry)
  local n = #entries
  entries[n + 1], entries[n + 2], entries[n + 3], entries[n + 4] = key, metric, expiry, amount
end
redis.call('SET', record_key, 'h' .. cmsgpack.pack(entries))
redis.call('ZADD', leases, string.format('%.0f', now + lease_ms), record_key)
return granted(wanted)
