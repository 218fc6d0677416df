-- Forget a session if the caller still owns it.
--
-- KEYS  session
-- ARGV  1 owner
-- Reply 1 when it was forgotten
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
