-- KEYS: marker, late      ARGV: tag, what to do, installation, run id, token, for how long a rebuild may take in ms
-- -> {tag, 'marked', 1 if it was done, else 0}
local marker = redis.call('GET', KEYS[1])
local wanted, installation, run_id, token = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local ours = is_open(marker) and string.find(marker, 'open ' .. installation .. ' ', 1, true) == 1
local rebuilding = marker == 'rebuilding ' .. token
local done = 0
if wanted == 'begin' and (not marker or rebuilding or (is_open(marker) and not ours)) then
  if is_open(marker) then redis.call('DEL', KEYS[2]) end
  redis.call('SET', KEYS[1], 'rebuilding ' .. token, 'PX', integer(ARGV[6]))
  done = 1
elseif (wanted == 'end' and rebuilding) or (wanted == 'accept' and ours) then
  redis.call('SET', KEYS[1], 'open ' .. installation .. ' ' .. run_id)
  done = 1
end
return {ARGV[1], 'marked', done}
