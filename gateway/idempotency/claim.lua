-- KEYS[1] the call; ARGV: fingerprint, owner, lease in ms.
local found = redis.call('HMGET', KEYS[1], 'fingerprint', 'status', 'head', 'body')
if not found[1] then
  redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'owner', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return {'granted'}
end
if found[1] ~= ARGV[1] then return {'other_body'} end
if not found[2] then return {'running'} end
if found[2] == '0' then return {'not_kept'} end
return {'answer', found[2], found[3], found[4]}
