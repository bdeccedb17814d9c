-- KEYS: leases, a counter per limit      ARGV: tag, the caller's clock in ms
-- -> {tag, 'levels', level...} | {tag, 'clock', ms}
local now = now_ms()
if math.abs(now - integer(ARGV[2])) > CLOCK_TOLERANCE_MS then return {ARGV[1], 'clock', now} end
expire_due(KEYS[1], now)
local reply = {ARGV[1], 'levels'}
for i = 2, #KEYS do
  reply[i + 1] = level(KEYS[i])
end
return reply
