-- Say when a pending event is due again, or make it a dead letter when it was sent often enough.
--
-- KEYS  1 the event's delivery  2 what is pending for the user  3 due  4 dead letters
-- ARGV  1 user  2 id  3 delay ms  4 most sendings  5 most dead letters  6 dead ttl ms
-- Reply the user's field ("p 2", "d 5"), or nil when the event is not pending
local field = 'u:' .. ARGV[1]
local attempts = string.match(redis.call('HGET', KEYS[1], field) or '', '^p (%d+)$')
if not attempts then return false end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if tonumber(attempts) < tonumber(ARGV[4]) then
  local due = now + tonumber(ARGV[3])
  redis.call('ZADD', KEYS[2], due, ARGV[2])
  local first = redis.call('ZSCORE', KEYS[3], ARGV[1])
  if not first or tonumber(first) > due then redis.call('ZADD', KEYS[3], due, ARGV[1]) end
  return 'p ' .. attempts
end
redis.call('HSET', KEYS[1], field, 'd ' .. attempts)
redis.call('PEXPIRE', KEYS[1], ARGV[6])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[4], now, ARGV[1] .. '\t' .. ARGV[2])
redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -1 - tonumber(ARGV[5]))
redis.call('PEXPIRE', KEYS[4], ARGV[6])
return 'd ' .. attempts
