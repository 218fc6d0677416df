-- With each beat: renew what a worker says for as long as its lease, and tell it what is asked.
--
-- KEYS  watching:<boot>, asks:<boot>, workers
-- ARGV  1 ttl ms  2 '1' to begin anew  3 prefix of leases  4 prefix of asks  then room, connections (0: none), ...
-- Reply {1, room...} with the rooms asked for by workers whose lease is alive; {0} when what was said before has
--       lapsed: the worker has to say everything again
--
-- The names of other workers' keys are made here: which workers there are is known to the set alone.  All of them
-- carry the tag of the declared keys.
if ARGV[2] == '1' then
  redis.call('DEL', KEYS[1])
elseif redis.call('EXISTS', KEYS[1]) == 0 then
  return {0}
end
redis.call('HSET', KEYS[1], '', 0) -- there even when nobody watches anything
for i = 5, #ARGV, 2 do
  if ARGV[i + 1] == '0' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])

local reply, seen = {1}, {}
for _, boot in ipairs(redis.call('SMEMBERS', KEYS[3])) do
  if redis.call('EXISTS', ARGV[3] .. boot) == 1 then
    for _, room in ipairs(redis.call('SMEMBERS', ARGV[4] .. boot)) do
      if not seen[room] then
        seen[room] = true
        reply[#reply + 1] = room
      end
    end
  end
end
return reply
