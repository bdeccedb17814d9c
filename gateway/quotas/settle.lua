-- KEYS: record, leases      ARGV: tag, then what was used: requests, tokens, cost
-- -> {tag, 'settled'}
-- Once: a settled id stays as it is. An id never seen is marked settled, so that a reservation which overtakes its
-- refund holds nothing. What was used goes to a counter once, however many claims were held on it.
local tag, record_key, leases = ARGV[1], KEYS[1], KEYS[2]
local used = {requests = ARGV[2], tokens = ARGV[3], cost = ARGV[4]}
integer(used.requests)
integer(used.tokens)
integer(used.cost)

local record = redis.call('GET', record_key)
local state = record and string.sub(record, 1, 1)
if state == 's' then return {tag, 'settled'} end

if record then
  local entries = cmsgpack.unpack(string.sub(record, 2))
  local posted = {}
  for i = 1, #entries, 4 do
    local key, metric, expiry, amount = entries[i], entries[i + 1], entries[i + 2], entries[i + 3]
    local actual = used[metric]
    if state == 'h' then release(key, metric, amount) end
    if actual and actual ~= '0' and not posted[key] then
      redis.call('HINCRBY', key, 'u', actual)
      expire_at(key, expiry)
      posted[key] = true
    end
  end
end
redis.call('SET', record_key, 's', 'EX', TOMBSTONE_S)
redis.call('ZREM', leases, record_key)
return {tag, 'settled'}
