-- KEYS: leases, watch, marker, late      ARGV: tag
-- -> {tag, 'pulse', ms, marker or ''}
local now = now_ms()
for i, kind in ipairs({'zset', 'hash', 'string', 'hash'}) do
  reclaim(KEYS[i], kind, KEYS[3])
end
expire_due(KEYS[2], KEYS[1], now)
return {ARGV[1], 'pulse', now, redis.call('GET', KEYS[3]) or ''}
