-- KEYS: late      ARGV: tag
-- -> {tag, 'late', request id...}
local reply = {ARGV[1], 'late'}
for _, rid in ipairs(redis.call('HKEYS', KEYS[1])) do
  reply[#reply + 1] = rid
end
return reply
