-- KEYS: late, watch      ARGV: tag
-- -> {tag, 'late', how often the ledger's part was set, request id...}
local reply = {ARGV[1], 'late', tonumber(redis.call('HGET', KEYS[2], 'bases') or 0)}
for _, rid in ipairs(redis.call('HKEYS', KEYS[1])) do
  reply[#reply + 1] = rid
end
return reply
