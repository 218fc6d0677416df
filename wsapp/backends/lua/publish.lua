-- Publish one draft into all of its rooms: number it, record it, trim, fan it out.  Atomic.
--
-- KEYS  clock, generation, then (stream, head) of each room, then the result key if the draft has an idempotency key
-- ARGV  1 head of the record  2 body  3 nonce for a missing generation  4 most entries  5 most bytes  6 age ms
--       7 ttl ms of a room's head  8 result ttl ms  9 prefix of room channels  10 the id if watchers know one already
--       11 the newest clock value the caller has seen (0: none)  12.. the rooms
-- Reply {duplicate 0|1, "id\troom\tseq\tepoch[\troom\tseq\tepoch...]"}
--
-- A room's head is one string, "epoch generation seq first bytes oldest at until": `first` is the seq of the oldest
-- entry, `oldest` its time, `at` the time of the newest, `until` when the stream expires (ms).
--
-- Everything that can be wrong with stored state is found and mended before the first write, so that a draft is
-- never in some of its rooms only.  Work is bounded: at most BATCH old entries leave a room per publish.
--
-- What is not done for each publish: a stream's expiry is pushed on when an eighth of the age has passed, and entries
-- over the number leave in steps.  history.lua hides what is kept longer for that.
local BATCH, FEW = 32, 8
local AHEAD = 2048000 -- two seconds: what was given and lost is not given again
local STEP, PLACE, SEND = 1, 0, 'PUBLISH' -- of several partitions: how many, which; redis_scripts writes this line
local call = redis.call
local head, body, most, most_bytes, age = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local count = #ARGV - 11
local result = KEYS[3 + 2 * count]
local generation = call('HGET', KEYS[2], 'token')

-- A result of an older generation is void: the history it points into is gone, so the draft is published again.
if result and generation then
  local known = call('GET', result)
  if known and string.sub(known, 1, #generation + 1) == generation .. '\n' then
    return {1, string.sub(known, #generation + 2)}
  end
end

-- The hybrid clock: 1/1024 ms, never the same twice, never back.  Below 2^53, so exact in a Lua number.  A partition
-- takes each STEP-th number: no id is given twice, and it tells where it was made.
--
-- Where the clock is lost, or less than somebody has seen, the server's time may be behind what was given too, and who
-- comes first may not have seen the last of it, perhaps twice in a row: each life of the data begins somewhere else.
local named = generation or ARGV[3]
local begin = (tonumber(string.sub(named, 1, 8), 16) or 0) % AHEAD
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local last, seen = tonumber(call('GET', KEYS[1])) or 0, tonumber(ARGV[11])
if seen > last then last = seen + AHEAD + begin end
local value = math.max(last + 1, now * 1024 + begin % 1024)
value = value + (PLACE - value) % STEP
local id = ARGV[10] ~= '' and ARGV[10] or string.format('%014x', value)

local function base36(number)
  local text = ''
  repeat
    local digit = number % 36
    text = string.sub('0123456789abcdefghijklmnopqrstuvwxyz', digit + 1, digit + 1) .. text
    number = (number - digit) / 36
  until number == 0
  return text
end

-- A room's state before this publish; a new epoch when what is stored is missing, partial, foreign or contradictory.
local function state_of(stream, stored)
  local epoch, of, seq, first, bytes, oldest, at, expires
  if stored then
    epoch, of, seq, first, bytes, oldest, at, expires =
      string.match(stored, '^(%S+) (%S+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  end
  if not epoch or of ~= generation then
    return {fresh = true, epoch = named .. '-' .. base36(value), seq = 0, first = 1, bytes = 0, oldest = now, expires = 0}
  end
  local room = {epoch = epoch, seq = tonumber(seq), first = tonumber(first), bytes = tonumber(bytes),
                oldest = tonumber(oldest), expires = tonumber(expires)}
  local kept = call('XLEN', stream)
  if kept == 0 or tonumber(at) <= now - age then -- aged out as a whole, or evicted
    room.aged, room.first, room.bytes, room.oldest, room.expires = kept > 0, room.seq + 1, 0, now, 0
  elseif kept ~= room.seq - room.first + 1 then -- trimmed by somebody else's hand
    local low = call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    local high = call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    if high[1] ~= seq .. '-0' then return state_of(stream, false) end
    room.first, room.oldest = tonumber(string.match(low[1], '^%d+')), tonumber(low[2][2]) or now
  end
  return room
end

local rooms, places = {}, ''
for i = 1, count do
  local room = state_of(KEYS[1 + 2 * i], call('GET', KEYS[2 + 2 * i]))
  room.seq = room.seq + 1
  places = places .. '\t' .. ARGV[11 + i] .. '\t' .. room.seq .. '\t' .. room.epoch
  rooms[i] = room
end
local record = id .. '\t' .. head .. places .. '\n' .. body

-- SET first: where memory is short it is refused before anything has been written.
call('SET', KEYS[1], string.format('%.0f', value))
if not generation then call('HSET', KEYS[2], 'token', named, 'partitions', STEP) end

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
local slack = math.min(math.floor(most / 8), BATCH - 1)
local function trim(stream, room)
  local excess = room.seq - room.first + 1 - most
  if excess <= slack and room.bytes <= most_bytes and room.oldest > now - age then return end
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
  local stream, room = KEYS[1 + 2 * i], rooms[i]
  if room.fresh or room.aged then call('DEL', stream) end
  call('XADD', stream, room.seq .. '-0', 'ts', now, 'r', record)
  room.bytes = room.bytes + #record
  trim(stream, room)
  if room.expires < now + age then
    room.expires = now + age + math.floor(age / 8)
    call('PEXPIREAT', stream, room.expires)
  end
  call('SET', KEYS[2 + 2 * i], string.format('%s %s %.0f %.0f %.0f %.0f %.0f %.0f', room.epoch, named, room.seq, room.first,
    math.max(room.bytes, 0), room.oldest, now, room.expires), 'PX', ARGV[7])
end

local placed = id .. places
if result then call('SET', result, named .. '\n' .. placed, 'PX', ARGV[8]) end
for i = 1, count do call(SEND, ARGV[9] .. ARGV[11 + i], record) end
return {0, placed}
