-- Read a page of one room's history together with its head.  Writes nothing.
--
-- KEYS  stream, head, generation
-- ARGV  1 since ('' for none)  2 limit  3 '1' for backwards  4 most entries  5 age ms
-- Reply {epoch, seq, first kept, record...}; {'', 0, 1} for a room without an epoch of this generation
--
-- publish.lua keeps entries over the number, and a quiet room's stream, for a while longer: they are not shown.
local generation, stored = redis.call('HGET', KEYS[3], 'token'), redis.call('GET', KEYS[2])
local epoch, of, seq, first, at
if stored then epoch, of, seq, first, at = string.match(stored, '^(%S+) (%S+) (%d+) (%d+) %d+ %d+ (%d+) %d+$') end
if not epoch or of ~= generation then return {'', 0, 1} end
seq, first = tonumber(seq), tonumber(first)

local time, kept = redis.call('TIME'), redis.call('XLEN', KEYS[1])
if kept == 0 or tonumber(at) <= tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) - tonumber(ARGV[5]) then
  return {epoch, seq, seq + 1}
end
if kept ~= seq - first + 1 then -- trimmed by somebody else's hand
  first = tonumber(string.match(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1], '^%d+'))
end
first = math.max(first, seq - tonumber(ARGV[4]) + 1)

-- '..' would write 1e+15 for what has more than 14 digits
local function entry(number) return string.format('%.0f-0', number) end

local page, since, limit = {epoch, seq, first}, tonumber(ARGV[1]), tonumber(ARGV[2])
if limit < 1 then return page end
local entries
if ARGV[3] == '1' then
  if since and since <= first then return page end
  local from = since and entry(since - 1) or '+'
  entries = redis.call('XREVRANGE', KEYS[1], from, entry(first), 'COUNT', limit)
else
  local from = entry(math.max(since and since + 1 or 0, first))
  entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', limit)
end
for i = 1, #entries do page[3 + i] = entries[i][2][4] end
return page
