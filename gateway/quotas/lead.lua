-- KEYS: lead      ARGV: tag, who asks, for how long in ms
-- -> {tag, 'lead', 1 if it is the one that asks, else 0}
local leader = unless_foreign(redis.pcall('GET', KEYS[1]))
if leader and leader ~= ARGV[2] then return {ARGV[1], 'lead', 0} end
redis.call('SET', KEYS[1], ARGV[2], 'PX', integer(ARGV[3]))
return {ARGV[1], 'lead', 1}
