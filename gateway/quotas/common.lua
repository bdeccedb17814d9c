-- Put before every verb. All keys carry one hash tag; those known beforehand are declared, and the counters that a
-- record names share their slot.
--
-- A counter is a hash: c carried (the ledger's part), u posted since, r reserved; s since, the line in ms between the
-- two parts; b whether c has been based on the ledger ('0': not yet).
-- A record is the life of one request id. Its first byte is the state: h held, l lapsed, s settled; what follows in
-- the first is the packed list of (counter key, amount) for each claim.
-- `leases` is a sorted set of the held records by the millisecond, on this server's clock, at which each lapses.
-- `late` is a hash of request ids that settled behind the line: the packed list of their ms, then (counter key, amount).
-- `watch` is a hash: beat, the ms at which leases were last looked at; high, the latest ms before a clock went back;
-- bases, how often the ledger's part was set.
-- `marker` says whose counters these are: 'open <installation> <run id>' or 'rebuilding <token> <run id>'. The run of an
-- open one is 'forgotten' when something has been lost without a restart.

local TOO_MUCH = 2 ^ 50
local TOMBSTONE_S = 172800
local CLOCK_TOLERANCE_MS = 2000
local UNWATCHED_MS = 5000
local SWEPT_AT_ONCE = 200

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Numbers become text with all their digits; plain tostring() would round them.
local function digits(number)
  return string.format('%.0f', number)
end

-- Only plain digits: tonumber() takes 'nan', '0x10' and '1e3' too, and NaN is over no limit.
local function integer(text)
  if not text or #text > 16 or not string.find(text, '^%d+$') then
    error('not an integer: ' .. tostring(text))
  end
  local number = tonumber(text)
  if number >= TOO_MUCH then error('too large: ' .. text) end
  return number
end

local function is_off(caller_ms, now)
  return math.abs(now - integer(caller_ms)) > CLOCK_TOLERANCE_MS
end

local function is_open(marker)
  return marker and string.sub(marker, 1, 5) == 'open '
end

-- A reply, or nil where another program has put something of another type in the place asked about.
local function unless_foreign(reply)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if string.find(reply.err, 'WRONGTYPE', 1, true) then return nil end
  error(reply.err)
end

-- Another program's key in one of our places goes. What had stood there is lost, so the store grants nothing until
-- somebody has counted it up.
local function reclaim(key, kind, marker)
  local found = redis.call('TYPE', key).ok
  if found == kind or found == 'none' then return end
  redis.call('DEL', key)
  local says = redis.call('GET', marker)
  if is_open(says) then redis.call('SET', marker, (string.gsub(says, ' [^ ]*$', ' forgotten'))) end
end

local function expire_at(key, second)
  if second ~= '' then redis.call('EXPIREAT', key, second) end
end

-- A counter that was lost in between must not end below 0: that would be room out of nothing. One of which nothing is
-- left, as when no more calls are made at once, goes.
local function release(key, amount)
  if amount == '0' then return end -- there is no '-0'
  local left = unless_foreign(redis.pcall('HINCRBY', key, 'r', '-' .. amount))
  if not left or left > 0 then return end
  if redis.call('HLEN', key) == 1 then
    redis.call('DEL', key)
  else
    redis.call('HSET', key, 'r', '0')
  end
end

local function release_all(packed)
  local entries = cmsgpack.unpack(packed)
  for i = 1, #entries, 2 do
    release(entries[i], entries[i + 1])
  end
end

-- Leases run on time that somebody watched. When nobody has looked for long, or the clock has gone back, holders could
-- not renew either: this server was stopped or its clock set. Leases move with such a gap. While nothing can be written
-- for want of memory, nothing lapses.
local function watched(watch, leases, now)
  local seen = redis.call('HMGET', watch, 'beat', 'high')
  local beat = redis.pcall('HSET', watch, 'beat', digits(now))
  if type(beat) == 'table' then
    if string.find(beat.err, 'OOM', 1, true) then return false end
    redis.call('HSET', watch, 'beat', digits(now))
  end
  local last, high = tonumber(seen[1]) or now, tonumber(seen[2]) or 0
  local gap = now - last
  if gap < 0 and last > high then redis.call('HSET', watch, 'high', digits(last)) end
  if gap < 0 or gap > UNWATCHED_MS then
    local held = redis.call('ZRANGE', leases, 0, -1, 'WITHSCORES')
    for i = 1, #held, 2 do
      redis.call('ZADD', leases, digits(held[i + 1] + gap), held[i])
    end
  end
  return true
end

-- Let go the holds that have lapsed; their records stay, so that they are known.
local function expire_due(watch, leases, now)
  if not watched(watch, leases, now) then return 0 end
  local due = redis.call('ZRANGEBYSCORE', leases, '-inf', digits(now), 'LIMIT', 0, SWEPT_AT_ONCE)
  for _, record_key in ipairs(due) do
    local record = redis.call('GET', record_key)
    if record and string.sub(record, 1, 1) == 'h' then
      release_all(string.sub(record, 2))
      redis.call('SET', record_key, 'l', 'EX', TOMBSTONE_S)
    end
    redis.call('ZREM', leases, record_key)
  end
  return #due
end

-- nil where it is another program's.
local function level(key)
  local counts = unless_foreign(redis.pcall('HMGET', key, 'c', 'u', 'r'))
  if not counts then return nil end
  return (tonumber(counts[1]) or 0) + (tonumber(counts[2]) or 0) + (tonumber(counts[3]) or 0)
end

-- A claim in ARGV: amount, expiry in unix s or '', limit, action.
local CLAIM = 4

local function hold(record_key, leases, first_key, first_arg, deadline)
  local entries = {}
  for i = first_key, #KEYS do
    local arg = first_arg + (i - first_key) * CLAIM
    local amount = ARGV[arg]
    integer(amount)
    unless_foreign(redis.pcall('HINCRBY', KEYS[i], 'r', amount)) -- the record tells, once the place is ours again
    expire_at(KEYS[i], ARGV[arg + 1])
    local n = #entries
    entries[n + 1], entries[n + 2] = KEYS[i], amount
  end
  redis.call('SET', record_key, 'h' .. cmsgpack.pack(entries))
  redis.call('ZADD', leases, digits(deadline), record_key)
end
