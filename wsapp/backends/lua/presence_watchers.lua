-- How many connections workers say a room has.
--
-- KEYS  workers
-- ARGV  1 room  2 prefix of leases  3 prefix of watching
-- Reply how many connections there are as of the last beats
local connections = 0
for _, boot in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('EXISTS', ARGV[2] .. boot) == 1 then
    connections = connections + (tonumber(redis.call('HGET', ARGV[3] .. boot, ARGV[1])) or 0)
  end
end
return connections
