-- Publish one draft into all of its rooms: number it, record it, trim, fan it out.  Atomic.
--
-- KEYS  generation, then (stream, head) of each room, then the result key if the draft has an idempotency key
-- ARGV  1 head of the record  2 body  3 nonce for a missing generation  4 most entries  5 most bytes  6 age ms
--       7 ttl ms of a room's head  8 result ttl ms  9 prefix of room channels  10 the id
--       11 of a retry: how long ago the id was made (ms), else ''  12.. the rooms
-- Reply {duplicate 0|1, "id\troom\tseq\tepoch[\troom\tseq\tepoch...]"}
--
-- A room's head is one string, "epoch generation seq first bytes oldest at until": `first` is the seq of the oldest
-- entry, `oldest` its time, `at` the time of the newest, `until` when the stream expires (ms).
--
-- Everything that can be wrong with stored state is found and mended before the first write, so that a draft is
-- never in some of its rooms only.  Work is bounded: at most BATCH old entries leave a room per publish.
--
-- Two things are not done for each publish: a stream's expiry moves on when an eighth of the age has passed, and
-- entries over the number leave in steps.  history.lua hides what is kept longer for that.
local BATCH, FEW = 32, 8
local LOOK, SLACK = 500, 1000 -- entries that a retry looks at in any case, and ms by which clocks may have been set
local PARTITIONS, SEND = 1, 'PUBLISH' -- redis_scripts writes this line where there are several
local call = redis.call
local head, body, most, most_bytes, age = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local id, tried = ARGV[10], tonumber(ARGV[11])
local count = #ARGV - 11
local result = KEYS[2 + 2 * count]
local generation = call('HGET', KEYS[1], 'token')

-- A result of an older generation is void: the history it points into is gone, so the draft is published again.
if result and generation then
  local known = call('GET', result)
  if known and string.sub(known, 1, #generation + 1) == generation .. '\n' then
    return {1, string.sub(known, #generation + 2)}
  end
end

local named = generation or ARGV[3]
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- Names the history that begins now: the server's time, and of the id what tells one millisecond's apart.
local function new_epoch()
  local number, text = now * 1024 + (tonumber(string.sub(id, 12, 14), 16) or 0) % 1024, ''
  repeat
    local digit = number % 36
    text = string.sub('0123456789abcdefghijklmnopqrstuvwxyz', digit + 1, digit + 1) .. text
    number = (number - digit) / 36
  until number == 0
  return named .. '-' .. text
end

-- A room's state before this publish; `fresh` when what is stored is missing, partial, foreign or contradictory.
local function state_of(stream, stored)
  local fresh = {fresh = true, seq = 0, first = 1, bytes = 0, oldest = now, expires = 0}
  if not stored then return fresh end
  local epoch, of, seq, first, bytes, oldest, at, expires =
    string.match(stored, '^(%S+) (%S+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  if not epoch or of ~= generation then return fresh end
  local room = {epoch = epoch, seq = tonumber(seq), first = tonumber(first), bytes = tonumber(bytes),
                oldest = tonumber(oldest), expires = tonumber(expires)}
  local kept = call('XLEN', stream)
  if kept == 0 or tonumber(at) <= now - age then -- evicted, or aged out as a whole
    room.aged, room.first, room.bytes, room.oldest, room.expires = kept > 0, room.seq + 1, 0, now, 0
  elseif kept ~= room.seq - room.first + 1 then -- trimmed by somebody else's hand
    local low = call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    local high = call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    if high[1] ~= seq .. '-0' then return fresh end
    room.first, room.oldest = tonumber(string.match(low[1], '^%d+')), tonumber(low[2][2]) or now
  end
  return room
end

-- The places of an event that an earlier attempt has recorded in the stream; nil when there is none.  What came before
-- its id was made is not looked at.
local function places_of(stream)
  local before, looked = '+', 0
  repeat
    local entries = call('XREVRANGE', stream, before, '-', 'COUNT', 100)
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
  local room = state_of(KEYS[2 * i], call('GET', KEYS[1 + 2 * i]))
  local known = tried and not room.fresh and places_of(KEYS[2 * i])
  if known then return {1, id .. known} end
  room.epoch = room.epoch or new_epoch()
  room.seq = room.seq + 1
  places = places .. '\t' .. ARGV[11 + i] .. '\t' .. room.seq .. '\t' .. room.epoch
  rooms[i] = room
end
local record = id .. '\t' .. head .. places .. '\n' .. body

if not generation then call('HSET', KEYS[1], 'token', named, 'partitions', PARTITIONS) end

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

-- Over the number by a step: a batch leaves.  Over the bytes or the age: usually one entry comes and one leaves, so two
-- are looked at; only when both are over, some more.
local step = math.min(math.floor(most / 8), BATCH - 1)
local function trim(stream, room)
  local excess = room.seq - room.first + 1 - most
  if excess <= step and room.bytes <= most_bytes and room.oldest > now - age then return end
  local batch = math.min(math.max(excess, 2), BATCH)
  local entries = call('XRANGE', stream, '-', '+', 'COUNT', batch + 1)
  local dropped, weight = over(room, entries, batch)
  if dropped == batch and batch < FEW then
    entries = call('XRANGE', stream, '-', '+', 'COUNT', FEW + 1)
    dropped, weight = over(room, entries, FEW)
  end
  if dropped == 0 then
    room.oldest = tonumber(entries[1][2][2])
    return
  end
  local last = tonumber(string.match(entries[dropped][1], '^%d+'))
  call('XTRIM', stream, 'MINID', '=', (last + 1) .. '-0')
  room.first, room.bytes = last + 1, room.bytes - weight
  local following = entries[dropped + 1]
  room.oldest = following and tonumber(following[2][2]) or now
end

for i = 1, count do
  local stream, room = KEYS[2 * i], rooms[i]
  if room.fresh or room.aged then
    call('SET', KEYS[1 + 2 * i], '', 'PX', ARGV[7]) -- first, because it is refused where memory is short
    call('DEL', stream)
  end
  call('XADD', stream, room.seq .. '-0', 'ts', now, 'r', record)
  room.bytes = room.bytes + #record
  trim(stream, room)
  if room.expires < now + age then
    room.expires = now + age + math.floor(age / 8)
    call('PEXPIREAT', stream, room.expires)
  end
  call('SET', KEYS[1 + 2 * i], string.format('%s %s %.0f %.0f %.0f %.0f %.0f %.0f', room.epoch, named, room.seq,
    room.first, math.max(room.bytes, 0), room.oldest, now, room.expires), 'PX', ARGV[7])
end

local placed = id .. places
if result then call('SET', result, named .. '\n' .. placed, 'PX', ARGV[8]) end
for i = 1, count do call(SEND, ARGV[9] .. ARGV[11 + i], record) end
return {0, placed}
