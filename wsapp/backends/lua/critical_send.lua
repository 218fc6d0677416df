-- Count a sending of a critical event to a user, and take what is over off the pending ones.
--
-- KEYS  1 the event's delivery  2 what is pending for the user
-- ARGV  1 user  2 id  3 1 to count it, 0 to look only  4 most sendings: none is counted beyond them
-- Reply how often it would then have been sent; nil when it is not pending, or forgotten
local field = 'u:' .. ARGV[1]
local attempts = string.match(redis.call('HGET', KEYS[1], field) or '', '^p (%d+)$')
if not attempts then
  redis.call('ZREM', KEYS[2], ARGV[2])
  return false
end
attempts = tonumber(attempts) + tonumber(ARGV[3])
if attempts <= tonumber(ARGV[4]) then redis.call('HSET', KEYS[1], field, 'p ' .. attempts) end
return attempts
