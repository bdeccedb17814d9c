-- KEYS: leases      ARGV: tag
-- -> {tag, 'held', record key...}
local reply = {ARGV[1], 'held'}
for _, record_key in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  reply[#reply + 1] = record_key
end
return reply
