-- Compare the server that a new connection reached with the one the generation belongs to.
--
-- KEYS  generation
-- ARGV  1 the server's run id ('' when it does not tell)  2 a fresh random token
-- Reply the token in force
--
-- A server that restarted, or a replica that was promoted, may have lost a tail of what was acknowledged.  Its run
-- id differs, so a new generation begins, and with it a new epoch in each room: nobody resumes over the hole.
local stored = redis.call('HMGET', KEYS[1], 'token', 'run')
local token, run = stored[1], stored[2]
if not token or (run and ARGV[1] ~= '' and run ~= ARGV[1]) then token = ARGV[2] end
if token ~= stored[1] then redis.call('HSET', KEYS[1], 'token', token) end
if ARGV[1] ~= '' and run ~= ARGV[1] then redis.call('HSET', KEYS[1], 'run', ARGV[1]) end
return token
