-- KEYS: calls that run; ARGV: lease in ms, then fingerprint and owner of each. What the store has lost it is told again.
for i, key in ipairs(KEYS) do
  local fingerprint, owner = ARGV[2 * i], ARGV[2 * i + 1]
  local found = redis.call('HMGET', key, 'owner', 'status')
  if not found[1] then redis.call('HSET', key, 'fingerprint', fingerprint, 'owner', owner) end
  if not found[1] or (found[1] == owner and not found[2]) then redis.call('PEXPIRE', key, ARGV[1]) end
end
return #KEYS
