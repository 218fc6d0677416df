-- Publish one draft into all of its rooms: number it, record it, trim, fan it out.  Atomic.
--
-- KEYS  generation, then (stream, meta) of each room, then the result key if the draft has an idempotency key
-- ARGV  1 head  2 body  3 nonce for a missing generation  4 most entries  5 most bytes  6 age ms  7 meta ttl ms
--       8 result ttl ms  9 prefix of room channels  10 the id  11 of a retry: how long ago the id was made (ms), else ''
--       12.. the rooms
-- Reply {duplicate 0|1, "id\troom\tseq\tepoch[\troom\tseq\tepoch...]"}
--
-- Everything that can be wrong with stored state is found and mended before the first write, so that a draft is
-- never in some of its rooms only.  Work is bounded: at most DROPPED old entries leave a room per publish.
local DROPPED = 8
local LOOK, SLACK = 500, 1000 -- entries that a retry looks at in any case, and ms by which clocks may have been set
local PARTITIONS, SEND = 1, 'PUBLISH' -- redis_scripts writes this line where there are several
local head, body, most, most_bytes, age = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local id, tried = ARGV[10], tonumber(ARGV[11])
local count = #ARGV - 11
local result = KEYS[2 + 2 * count]
local generation = redis.call('HGET', KEYS[1], 'token')

-- A result of an older generation is void: the history it points into is gone, so the draft is published again.
if result and generation then
  local known = redis.call('GET', result)
  if known and string.sub(known, 1, #generation + 1) == generation .. '\n' then
    return {1, string.sub(known, #generation + 2)}
  end
end

local named = generation or ARGV[3]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
-- Names the histories that begin now: the server's time, and of the id what tells one millisecond's apart.
local begun = now * 1024 + (tonumber(string.sub(id, 12, 14), 16) or 0) % 1024

local function base36(number)
  local text = ''
  repeat
    local digit = number % 36
    text = string.sub('0123456789abcdefghijklmnopqrstuvwxyz', digit + 1, digit + 1) .. text
    number = (number - digit) / 36
  until number == 0
  return text
end

-- A room's state before this publish; `fresh` when what is stored is missing, partial, foreign or contradictory.
local function state_of(stream, meta)
  local m = redis.call('HMGET', meta, 'epoch', 'generation', 'seq', 'first', 'bytes', 'oldest')
  local seq, first, bytes, oldest = tonumber(m[3]), tonumber(m[4]), tonumber(m[5]), tonumber(m[6])
  if not (generation and m[1] and m[2] == generation and seq and first and bytes and oldest) then
    return {fresh = true}
  end
  local kept = redis.call('XLEN', stream)
  if kept == 0 then -- aged out as a whole, or evicted
    first, bytes, oldest = seq + 1, 0, now
  elseif kept ~= seq - first + 1 then -- trimmed by somebody else's hand
    local low = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    local high = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    if high[1] ~= seq .. '-0' then return {fresh = true} end
    first, oldest = tonumber(string.match(low[1], '^%d+')), tonumber(low[2][2]) or now
  end
  return {epoch = m[1], seq = seq, first = first, bytes = bytes, oldest = oldest}
end

-- The places of an event that an earlier attempt has recorded in the stream; nil when there is none.  What came before
-- its id was made is not looked at.
local function places_of(stream)
  local before, looked = '+', 0
  repeat
    local entries = redis.call('XREVRANGE', stream, before, '-', 'COUNT', 100)
    for i = 1, #entries do
      local record = entries[i][2][4]
      if string.sub(record, 1, #id + 1) == id .. '\t' then
        return string.match(record, '^[^\t]+' .. string.rep('\t[^\t]*', 6) .. '(\t[^\n]+)')
      end
    end
    looked = looked + #entries
    local last = entries[#entries]
    if last then before = '(' .. last[1] end
  until #entries < 100 or (looked >= LOOK and tonumber(last[2][2]) < now - tried - SLACK)
end

local rooms, places = {}, ''
for i = 1, count do
  local room = state_of(KEYS[2 * i], KEYS[1 + 2 * i])
  local known = tried and not room.fresh and places_of(KEYS[2 * i])
  if known then return {1, id .. known} end
  if room.fresh then
    room = {fresh = true, epoch = named .. '-' .. base36(begun), seq = 0, first = 1, bytes = 0, oldest = now}
  end
  room.seq = room.seq + 1
  places = places .. '\t' .. ARGV[11 + i] .. '\t' .. room.seq .. '\t' .. room.epoch
  rooms[i] = room
end
local record = id .. '\t' .. head .. places .. '\n' .. body

if not generation then redis.call('HSET', KEYS[1], 'token', named, 'partitions', PARTITIONS) end

-- How many of `entries` (the oldest ones) are over a limit, and what they weigh.
local function over(room, entries, upto)
  local dropped, weight = 0, 0
  local total = room.seq - room.first + 1
  for i = 1, math.min(#entries, upto) do
    local fields = entries[i][2]
    if total - dropped <= most and room.bytes - weight <= most_bytes and tonumber(fields[2]) > now - age then break end
    dropped, weight = i, weight + #fields[4]
  end
  return dropped, weight
end

-- Usually one entry comes and one leaves, so two are looked at; only when both are over, a whole batch.
local function trim(stream, room)
  if room.seq - room.first + 1 <= most and room.bytes <= most_bytes and room.oldest > now - age then return end
  local entries = redis.call('XRANGE', stream, '-', '+', 'COUNT', 2)
  local dropped, weight = over(room, entries, 2)
  if dropped == 2 then
    entries = redis.call('XRANGE', stream, '-', '+', 'COUNT', DROPPED + 1)
    dropped, weight = over(room, entries, DROPPED)
  end
  if dropped == 0 then
    room.oldest = tonumber(entries[1][2][2])
    return
  end
  local last = tonumber(string.match(entries[dropped][1], '^%d+'))
  redis.call('XTRIM', stream, 'MINID', '=', (last + 1) .. '-0')
  room.first, room.bytes = last + 1, room.bytes - weight
  local following = entries[dropped + 1]
  room.oldest = following and tonumber(following[2][2]) or now
end

for i = 1, count do
  local stream, meta, room = KEYS[2 * i], KEYS[1 + 2 * i], rooms[i]
  if room.fresh then
    redis.call('HSET', meta, 'epoch', room.epoch) -- first, because it is refused where memory is short
    redis.call('DEL', stream)
  end
  redis.call('XADD', stream, room.seq .. '-0', 'ts', now, 'r', record)
  room.bytes = room.bytes + #record
  trim(stream, room)
  redis.call('HSET', meta, 'epoch', room.epoch, 'generation', named, 'seq', room.seq, 'first', room.first,
    'bytes', math.max(room.bytes, 0), 'oldest', room.oldest)
  redis.call('PEXPIRE', stream, age)
  redis.call('PEXPIRE', meta, ARGV[7])
end

local placed = id .. places
if result then redis.call('SET', result, named .. '\n' .. placed, 'PX', ARGV[8]) end
for i = 1, count do redis.call(SEND, ARGV[9] .. ARGV[11 + i], record) end
return {0, placed}
