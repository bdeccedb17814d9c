-- KEYS: leases, watch, a counter per limit      ARGV: tag, the caller's clock in ms
-- -> {tag, 'levels', level...} | {tag, 'clock', ms}
local now = now_ms()
if is_off(ARGV[2], now) then return {ARGV[1], 'clock', now} end
expire_due(KEYS[2], KEYS[1], now)
local reply = {ARGV[1], 'levels'}
for i = 3, #KEYS do
  reply[i] = level(KEYS[i]) or error('another program has written to ' .. KEYS[i])
end
return reply
