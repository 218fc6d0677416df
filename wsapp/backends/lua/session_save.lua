-- Save a session unless another owner has it.
--
-- KEYS  session, generation
-- ARGV  1 owner  2 user  3 positions (JSON)  4 metadata (JSON)  5 ttl ms  6 what few have (JSON, or nothing)
--
-- The generation says of what server's life the positions are: one in a room without an epoch does not say it itself.
-- Reply 1, or 0 when another owner has taken it
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner and owner ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'user', ARGV[2], 'positions', ARGV[3], 'metadata', ARGV[4],
           'generation', redis.call('HGET', KEYS[2], 'token') or '')
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[1], 'more', ARGV[6])
else
  redis.call('HDEL', KEYS[1], 'more')
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
