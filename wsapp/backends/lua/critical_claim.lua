-- Take what is due for one user, or all that is pending; nobody else is given it before the lease is over.
--
-- KEYS  1 what is pending for the user  2 due
-- ARGV  1 user  2 lease ms  3 most  4 '1' for all, '0' for what is due
-- Reply the ids
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[4] == '1' and '+inf' or now, 'LIMIT', 0, ARGV[3])
for i = 1, #ids do redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ids[i]) end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then
  redis.call('ZADD', KEYS[2], first[2], ARGV[1])
else
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return ids
