-- Read a page of one room's history together with its head.  Writes nothing.
--
-- KEYS  stream, meta, generation
-- ARGV  1 since ('' for none)  2 limit  3 '1' for backwards
-- Reply {epoch, seq, first kept, record...}; {'', 0, 1} for a room without an epoch of this generation
local meta = redis.call('HMGET', KEYS[2], 'epoch', 'generation', 'seq', 'first')
local generation = redis.call('HGET', KEYS[3], 'token')
local epoch, seq, first = meta[1], tonumber(meta[3]), tonumber(meta[4])
if not (generation and epoch and meta[2] == generation and seq and first) then return {'', 0, 1} end

local kept = redis.call('XLEN', KEYS[1])
if kept == 0 then return {epoch, seq, seq + 1} end
if kept ~= seq - first + 1 then -- trimmed by somebody else's hand
  first = tonumber(string.match(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1], '^%d+'))
end

-- '..' would write 1e+15 for what has more than 14 digits
local function entry(number) return string.format('%.0f-0', number) end

local page, since, limit = {epoch, seq, first}, tonumber(ARGV[1]), tonumber(ARGV[2])
if limit < 1 then return page end
local entries
if ARGV[3] == '1' then
  if since and since <= first then return page end
  local from = since and entry(since - 1) or '+'
  entries = redis.call('XREVRANGE', KEYS[1], from, '-', 'COUNT', limit)
else
  local from = since and entry(math.max(since, 0) + 1) or '-'
  entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', limit)
end
for i = 1, #entries do page[3 + i] = entries[i][2][4] end
return page
