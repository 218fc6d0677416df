-- Refuse somebody from now on and tell every worker that has a lease.
--
-- KEYS  revocation, workers
-- ARGV  1 when (s since the epoch, decimal)  2 ttl ms  3 prefix of control channels  4 message
-- Reply how many workers were told
--
-- A second revocation of the same never shortens the first.
local ttl = math.max(tonumber(ARGV[2]), redis.call('PTTL', KEYS[1]))
local at = ARGV[1]
local before = redis.call('GET', KEYS[1])
if before and tonumber(before) > tonumber(at) then at = before end
redis.call('SET', KEYS[1], at, 'PX', string.format('%d', ttl))
local workers = redis.call('SMEMBERS', KEYS[2])
for _, boot in ipairs(workers) do
  redis.call('PUBLISH', ARGV[3] .. boot, ARGV[4])
end
return #workers
