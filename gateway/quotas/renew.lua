-- KEYS: leases, a record per request id      ARGV: tag, lease in ms
-- -> {tag, 'renewed', index from 0 of each record that is not known...}
-- Only what is still held: a hold that has lapsed may have given its room away. A held record without a lease is not
-- known: holding it again gives it one.
local leases = KEYS[1]
local deadline = digits(now_ms() + integer(ARGV[2]))
local reply = {ARGV[1], 'renewed'}
for i = 2, #KEYS do
  if redis.call('ZSCORE', leases, KEYS[i]) then
    redis.call('ZADD', leases, 'XX', deadline, KEYS[i])
  else
    local record = redis.call('GET', KEYS[i])
    if not record or string.sub(record, 1, 1) == 'h' then reply[#reply + 1] = i - 2 end
  end
end
return reply
