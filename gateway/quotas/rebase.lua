-- KEYS: late, watch, a counter per base
-- ARGV: tag, how often the ledger's part had been set when it was asked, 1 if it may only rise, how many ids have
--       landed, those ids, and per base: since in ms, what the ledger says, which adjustments may have taken below 0
-- -> {tag, 'rebased', how often the ledger's part has been set} | {tag, 'overtaken'}
-- Whoever asked the ledger before somebody else set its part last may know less than what is no longer late.
local tag, late, watch = ARGV[1], KEYS[1], KEYS[2]
local raising, landed = ARGV[3] == '1', integer(ARGV[4])
local bases = tonumber(redis.call('HGET', watch, 'bases') or 0)
if bases ~= integer(ARGV[2]) then return {tag, 'overtaken'} end
redis.call('HSET', watch, 'bases', digits(bases + 1))
for i = 5, 4 + landed do
  redis.call('HDEL', late, ARGV[i])
end

local oldest = now_ms() - TOMBSTONE_S * 1000
local missing = {}
local entries = redis.call('HGETALL', late)
for i = 1, #entries, 2 do
  local amounts = cmsgpack.unpack(entries[i + 1])
  if tonumber(amounts[1]) < oldest then
    redis.call('HDEL', late, entries[i])
  else
    for j = 2, #amounts, 2 do
      missing[amounts[j]] = (missing[amounts[j]] or 0) + tonumber(amounts[j + 1])
    end
  end
end

for i = 3, #KEYS do
  local key, arg = KEYS[i], 5 + landed + (i - 3) * 2
  local since, used = ARGV[arg], ARGV[arg + 1]
  integer(since)
  integer((string.gsub(used, '^%-', '')))
  local line = unless_foreign(redis.pcall('HGET', key, 's'))
  if line ~= nil and (line or '0') == since and (line or redis.call('EXISTS', key) == 1) then
    local whole = tonumber(used) + (missing[key] or 0)
    if raising then whole = math.max(whole, tonumber(redis.call('HGET', key, 'c')) or 0) end
    redis.call('HSET', key, 'c', digits(whole), 'b', '1')
  end
end
return {tag, 'rebased', bases + 1}
