-- KEYS: leases, watch, a counter per limit      ARGV: tag, the caller's clock in ms
-- -> {tag, 'counts', then per counter: settled, reserved, since in ms, based as 0 or 1} | {tag, 'clock', ms}
local now = now_ms()
if is_off(ARGV[2], now) then return {ARGV[1], 'clock', now} end
expire_due(KEYS[2], KEYS[1], now)
local reply = {ARGV[1], 'counts'}
for i = 3, #KEYS do
  local counts = unless_foreign(redis.pcall('HMGET', KEYS[i], 'c', 'u', 'r', 's', 'b')) or {nil, nil, nil, nil, '0'}
  local n = #reply
  reply[n + 1] = (tonumber(counts[1]) or 0) + (tonumber(counts[2]) or 0)
  reply[n + 2] = tonumber(counts[3]) or 0
  reply[n + 3] = tonumber(counts[4]) or 0
  reply[n + 4] = counts[5] == '0' and 0 or 1
end
return reply
