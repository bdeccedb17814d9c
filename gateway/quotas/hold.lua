-- KEYS: record, leases, a counter per claim      ARGV: tag, lease in ms, and the claims
-- -> {tag, 'held'}
-- For a call that runs although this server has forgotten it: it has its room already, whatever the marker says.
local record_key, leases = KEYS[1], KEYS[2]
local deadline = now_ms() + integer(ARGV[2])
local record = redis.call('GET', record_key)
if not record then
  hold(record_key, leases, 3, 3, deadline)
elseif string.sub(record, 1, 1) == 'h' then
  redis.call('ZADD', leases, digits(deadline), record_key)
end
return {ARGV[1], 'held'}
