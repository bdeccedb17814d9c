-- Put before every verb. All keys carry one hash tag; those known beforehand are declared, and the counters that a
-- record names share their slot.
--
-- A counter is a hash: u settled, r reserved.
-- A record is the life of one request id. Its first byte is the state: h held, l lapsed, s settled; what follows in
-- the first two is the packed list of (counter key, metric, expiry, amount) for each claim.
-- `leases` is a sorted set of the held records by the millisecond, on this server's clock, at which each lapses.

local TOMBSTONE_S = 172800
local CLOCK_TOLERANCE_MS = 2000
local SWEPT_AT_ONCE = 200

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Only plain digits: tonumber() takes 'nan', '0x10' and '1e3' too, and NaN is over no limit.
local function integer(text)
  if not text or #text > 16 or not string.find(text, '^%d+$') then
    error('not an integer: ' .. tostring(text))
  end
  return tonumber(text)
end

local function expire_at(key, second)
  if second ~= '' then redis.call('EXPIREAT', key, second) end
end

-- Calls made at once are counted by what is reserved alone; nothing is left to keep when that is 0. A counter that was
-- lost in between must not end below 0: that would be room out of nothing.
local function release(key, metric, amount)
  local reserved = redis.call('HINCRBY', key, 'r', '-' .. amount)
  if metric == 'parallel' and reserved <= 0 then
    redis.call('DEL', key)
  elseif reserved < 0 then
    redis.call('HSET', key, 'r', '0')
  end
end

-- Let go the holds that have lapsed; their records stay, for a settlement that comes late.
local function expire_due(leases, now)
  local due = redis.call('ZRANGEBYSCORE', leases, '-inf', string.format('%.0f', now), 'LIMIT', 0, SWEPT_AT_ONCE)
  for _, record_key in ipairs(due) do
    local record = redis.call('GET', record_key)
    if record and string.sub(record, 1, 1) == 'h' then
      local packed = string.sub(record, 2)
      local entries = cmsgpack.unpack(packed)
      for i = 1, #entries, 4 do
        release(entries[i], entries[i + 1], entries[i + 3])
      end
      redis.call('SET', record_key, 'l' .. packed, 'EX', TOMBSTONE_S)
    end
    redis.call('ZREM', leases, record_key)
  end
  return #due
end

local function level(key)
  local counts = redis.call('HMGET', key, 'u', 'r')
  return (tonumber(counts[1]) or 0) + (tonumber(counts[2]) or 0)
end

