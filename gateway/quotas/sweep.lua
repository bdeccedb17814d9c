-- KEYS: leases      ARGV: tag
-- -> {tag, 'swept', how many holds were let go}
return {ARGV[1], 'swept', expire_due(KEYS[1], now_ms())}
