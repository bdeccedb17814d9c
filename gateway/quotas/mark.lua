-- KEYS: marker, late
-- ARGV: tag, what to do, installation, run id, token, the marker as last seen, for how long a rebuild may take in ms
-- -> {tag, 'marked', 1 if it was done, else 0}
-- Whoever begins has seen what is wrong with the marker; one that is another by now has been seen to by somebody else.
local marker = redis.call('GET', KEYS[1])
local wanted, installation, run_id, seen = ARGV[2], ARGV[3], ARGV[4], ARGV[6]
local rebuilding = 'rebuilding ' .. ARGV[5] .. ' ' .. run_id
local ours = is_open(marker) and string.find(marker, 'open ' .. installation .. ' ', 1, true) == 1
local done = 0
if (wanted == 'begin' and (not marker or marker == seen)) or (wanted == 'go on' and marker == rebuilding) then
  if is_open(marker) and not ours then redis.call('DEL', KEYS[2]) end
  redis.call('SET', KEYS[1], rebuilding, 'PX', integer(ARGV[7]))
  done = 1
elseif wanted == 'end' and marker == rebuilding then
  redis.call('SET', KEYS[1], 'open ' .. installation .. ' ' .. run_id)
  done = 1
end
return {ARGV[1], 'marked', done}
