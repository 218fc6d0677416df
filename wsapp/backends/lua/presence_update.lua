-- Say how many connections users have in a room on one worker, and tell the workers that ask.
--
-- KEYS  presence:<room>, workers
-- ARGV  1 boot  2 room  3 ttl ms  4 prefix of asks  5 prefix of control channels  then user, connections (0: none), ...
-- Reply how many workers were told
for i = 6, #ARGV, 2 do
  local field = ARGV[1] .. '\t' .. ARGV[i]
  if ARGV[i + 1] == '0' then
    redis.call('HDEL', KEYS[1], field)
  else
    redis.call('HSET', KEYS[1], field, ARGV[i + 1])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])

local told = 0
for _, boot in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  if redis.call('SISMEMBER', ARGV[4] .. boot, ARGV[2]) == 1 then
    redis.call('PUBLISH', ARGV[5] .. boot, 'presence ' .. ARGV[2])
    told = told + 1
  end
end
return told
