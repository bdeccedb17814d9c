-- KEYS: watch      ARGV: tag
-- -> {tag, 'turn', how often the ledger's part has been set}
return {ARGV[1], 'turn', tonumber(redis.call('HGET', KEYS[1], 'bases') or 0)}
