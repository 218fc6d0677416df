-- A user has acknowledged a critical event.
--
-- KEYS  1 the event's delivery  2 what is pending for the user  3 due  4 dead letters
-- ARGV  1 user  2 id
-- Reply 1, or 0 when it was never kept for the user, or is forgotten
local field = 'u:' .. ARGV[1]
local state = redis.call('HGET', KEYS[1], field)
if not state then return 0 end
redis.call('HSET', KEYS[1], field, 'a' .. string.sub(state, 2))
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZREM', KEYS[4], ARGV[1] .. '\t' .. ARGV[2])
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('ZREM', KEYS[3], ARGV[1]) end
return 1
