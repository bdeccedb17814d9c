-- KEYS: leases, a record per request id      ARGV: tag, lease in ms
-- -> {tag, 'renewed'}
-- Only what is still held: a hold that has lapsed may have given its room away.
local deadline = string.format('%.0f', now_ms() + integer(ARGV[2]))
for i = 2, #KEYS do
  redis.call('ZADD', KEYS[1], 'XX', deadline, KEYS[i])
end
return {ARGV[1], 'renewed'}
