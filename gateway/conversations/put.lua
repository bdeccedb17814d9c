-- KEYS: the conversation, the index of all that are kept by the time they lapse, their bytes together.
-- ARGV: how long in ms, size, most bytes, the conversation.
redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[1])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local total = tonumber(redis.call('GET', KEYS[3]) or '0')
if redis.call('ZADD', KEYS[2], now + ARGV[1], ARGV[2] .. ':' .. KEYS[1]) == 1 then total = total + ARGV[2] end

-- What has lapsed no longer counts; then those that would lapse first make room.
while true do
  local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  if not first[1] then break end
  local lapsed = tonumber(first[2]) <= now
  if not lapsed and total <= tonumber(ARGV[3]) then break end
  local colon = string.find(first[1], ':', 1, true)
  redis.call('ZREM', KEYS[2], first[1])
  total = total - string.sub(first[1], 1, colon - 1)
  if not lapsed then redis.call('DEL', string.sub(first[1], colon + 1)) end
end
redis.call('SET', KEYS[3], string.format('%d', math.max(0, total)))
return 1
