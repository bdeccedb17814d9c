-- KEYS: leases, watch, marker      ARGV: tag
-- -> {tag, 'pulse', ms, marker or ''}
local now = now_ms()
expire_due(KEYS[2], KEYS[1], now)
return {ARGV[1], 'pulse', now, redis.call('GET', KEYS[3]) or ''}
