-- Keep one critical event for users until each of them acknowledges it.
--
-- KEYS  1 the event's delivery  2 due  3 dead letters  4.. what is pending for each user
-- ARGV  1 id  2 record  3 delay ms  4 ttl ms  5 most pending per user  6 most dead letters  7 dead ttl ms  8.. users
-- Reply how many of the users are new
--
-- The record is stored once, however many users there are.  Each user's field ("p 1": pending, sent once) is written
-- once: an event that was acknowledged on another worker meanwhile does not come back.
local id = ARGV[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local due = now + tonumber(ARGV[3])
if redis.call('HSETNX', KEYS[1], 'record', ARGV[2]) == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end

local new, buried = 0, false
for i = 8, #ARGV do
  local user, pending = ARGV[i], KEYS[i - 4]
  if redis.call('HSETNX', KEYS[1], 'u:' .. user, 'p 1') == 1 then
    new = new + 1
    if redis.call('ZCARD', pending) < tonumber(ARGV[5]) then
      redis.call('ZADD', pending, due, id)
      redis.call('PEXPIRE', pending, ARGV[7])
      local first = redis.call('ZSCORE', KEYS[2], user)
      if not first or tonumber(first) > due then redis.call('ZADD', KEYS[2], due, user) end
    else -- full: whoever never acknowledges must not fill the memory
      redis.call('HSET', KEYS[1], 'u:' .. user, 'd 1')
      redis.call('ZADD', KEYS[3], now, user .. '\t' .. id)
      buried = true
    end
  end
end
if new > 0 then
  -- Users who have been away for all of the time that a dead letter is kept have nothing left to get.
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[7]))
  redis.call('PEXPIRE', KEYS[2], ARGV[7])
end
if buried then
  redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -1 - tonumber(ARGV[6]))
  redis.call('PEXPIRE', KEYS[3], ARGV[7])
  redis.call('PEXPIRE', KEYS[1], ARGV[7])
end
return new
