-- Make a dead letter pending and due at once.
--
-- KEYS  1 the event's delivery  2 what is pending for the user  3 due  4 dead letters
-- ARGV  1 user  2 id  3 dead ttl ms
-- Reply 1, or 0 when it is no dead letter
if redis.call('ZREM', KEYS[4], ARGV[1] .. '\t' .. ARGV[2]) == 0 then return 0 end
local field = 'u:' .. ARGV[1]
if string.sub(redis.call('HGET', KEYS[1], field) or '', 1, 1) ~= 'd' then return 0 end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('HSET', KEYS[1], field, 'p 0')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], now, ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('ZADD', KEYS[3], now, ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
return 1
