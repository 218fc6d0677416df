-- Who watches a room, on workers whose lease is alive.  What dead workers said is forgotten on the way.
--
-- KEYS  presence:<room>
-- ARGV  1 prefix of leases  2 ttl ms
-- Reply {user, connections, ...}, a user once per worker
local flat, alive, reply = redis.call('HGETALL', KEYS[1]), {}, {}
for i = 1, #flat, 2 do
  local boot, user = string.match(flat[i], '^([^\t]*)\t(.*)$')
  if alive[boot] == nil then
    alive[boot] = redis.call('EXISTS', ARGV[1] .. boot) == 1
  end
  if alive[boot] then
    reply[#reply + 1] = user
    reply[#reply + 1] = tonumber(flat[i + 1])
  else
    redis.call('HDEL', KEYS[1], flat[i])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return reply
