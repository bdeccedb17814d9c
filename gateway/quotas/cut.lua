-- KEYS: leases, watch, marker, a counter per turn of a window
-- ARGV: tag, the caller's clock in ms, ahead in ms, and per counter: start of its turn in ms, its end in ms or '',
--       expiry in unix s or ''
-- -> {tag, 'cut'} | {tag, 'clock', ms}
-- The line never goes back, nor behind a moment at which a call may have been created: this server's clock may have.
-- What stands so far stands in for the ledger's part. Where the server has been emptied that is nothing to trust.
-- What is reserved is counted anew, in case a counter or a record has been lost.
local FIRST_KEY, FIRST_ARG, STRIDE = 4, 4, 3
local leases, watch = KEYS[1], KEYS[2]
local now = now_ms()
if is_off(ARGV[2], now) then return {ARGV[1], 'clock', now} end
expire_due(watch, leases, now)
local high = tonumber(redis.call('HGET', watch, 'high') or 0)
local line = math.max(now, high) + integer(ARGV[3])
local whole = is_open(redis.call('GET', KEYS[3]))

local held = {}
for _, record_key in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
  local record = redis.call('GET', record_key)
  if record and string.sub(record, 1, 1) == 'h' then
    local entries = cmsgpack.unpack(string.sub(record, 2))
    for i = 1, #entries, 2 do
      held[entries[i]] = (held[entries[i]] or 0) + tonumber(entries[i + 1])
    end
  end
end

for i = FIRST_KEY, #KEYS do
  local key, arg = KEYS[i], FIRST_ARG + (i - FIRST_KEY) * STRIDE
  local starts_at, ends_at = integer(ARGV[arg]), ARGV[arg + 1]
  reclaim(key, 'hash', KEYS[3])
  if starts_at < line then
    local counts = redis.call('HMGET', key, 'c', 'u', 'r', 's', 'b')
    local since = line
    if ends_at ~= '' then since = math.min(since, integer(ends_at)) end
    since = math.max(since, tonumber(counts[4]) or 0)
    local based = starts_at < now and '0' or '1'
    if whole and (counts[1] or counts[2] or counts[3]) then based = counts[5] or '1' end
    local carried = (tonumber(counts[1]) or 0) + (tonumber(counts[2]) or 0)
    redis.call('HSET', key, 'c', digits(carried), 'u', '0', 'r', digits(held[key] or 0), 's', digits(since), 'b', based)
    expire_at(key, ARGV[arg + 2])
  end
end
return {ARGV[1], 'cut'}
