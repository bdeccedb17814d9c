-- KEYS[1] the call; ARGV[1] owner.
local found = redis.call('HMGET', KEYS[1], 'owner', 'status')
if found[1] == ARGV[1] and not found[2] then return redis.call('DEL', KEYS[1]) end
return 0
