-- KEYS: record, leases, late, marker, each counter of the call once
-- ARGV: request id as tag, the ms at which the call was created, and per counter: what was used, expiry in unix s or ''
-- -> {tag, 'settled'}
-- Once: a settled id stays as it is. An id never seen is marked settled, so that a reservation which overtakes its
-- refund holds nothing. What was used counts whatever became of the hold; while the store waits to be filled from the
-- ledger, where the row may or may not be yet, it is late.
local tag, record_key, leases, late = ARGV[1], KEYS[1], KEYS[2], KEYS[3]
local at = integer(ARGV[2])
for i = 5, #KEYS do
  integer(ARGV[3 + (i - 5) * 2])
end

local record = redis.call('GET', record_key)
local state = record and string.sub(record, 1, 1)
if state == 's' then return {tag, 'settled'} end
if state == 'h' then
  release_all(string.sub(record, 2))
  redis.call('ZREM', leases, record_key)
end

local behind
local whole = is_open(redis.call('GET', KEYS[4]))
for i = 5, #KEYS do
  local key, arg = KEYS[i], 3 + (i - 5) * 2
  local amount = ARGV[arg]
  if amount ~= '0' then
    local since = unless_foreign(redis.pcall('HGET', key, 's'))
    if since == nil then reclaim(key, 'hash', KEYS[4]) end
    if whole and at >= tonumber(since or 0) then
      redis.call('HINCRBY', key, 'u', amount)
    else
      redis.call('HINCRBY', key, 'c', amount)
      behind = behind or {digits(now_ms())}
      behind[#behind + 1] = key
      behind[#behind + 1] = amount
    end
    expire_at(key, ARGV[arg + 1])
  end
end
if behind then redis.call('HSET', late, tag, cmsgpack.pack(behind)) end
redis.call('SET', record_key, 's', 'EX', TOMBSTONE_S)
return {tag, 'settled'}
