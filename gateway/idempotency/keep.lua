-- KEYS: the call, the index of all that are kept by the time they lapse, their bytes together.
-- ARGV: fingerprint, owner ('': nobody's, whatever is there makes way), how long in ms, size, most bytes, status (0: too
-- large), head, body.
local before = redis.call('HMGET', KEYS[1], 'owner', 'size')
if ARGV[2] ~= '' and before[1] and before[1] ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'owner', ARGV[2], 'size', ARGV[4], 'status', ARGV[6], 'head', ARGV[7],
  'body', ARGV[8])
redis.call('PEXPIRE', KEYS[1], ARGV[3])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local total = tonumber(redis.call('GET', KEYS[3]) or '0')
if before[2] and redis.call('ZREM', KEYS[2], before[2] .. ':' .. KEYS[1]) == 1 then total = total - before[2] end
if redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[4] .. ':' .. KEYS[1]) == 1 then total = total + ARGV[4] end

-- What has lapsed no longer counts; then the oldest make room. A lapsed call's key may be another claim's by now.
while true do
  local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  if not first[1] then break end
  local lapsed = tonumber(first[2]) <= now
  if not lapsed and total <= tonumber(ARGV[5]) then break end
  local colon = string.find(first[1], ':', 1, true)
  redis.call('ZREM', KEYS[2], first[1])
  total = total - string.sub(first[1], 1, colon - 1)
  if not lapsed then redis.call('DEL', string.sub(first[1], colon + 1)) end
end
redis.call('SET', KEYS[3], string.format('%d', math.max(0, total)))
return 1
