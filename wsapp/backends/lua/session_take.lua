-- Make somebody the owner of a session and tell the previous owner's worker.
--
-- KEYS  session
-- ARGV  1 new owner ("<boot>:<sid>")  2 prefix of control channels  3 ttl ms
-- Reply {previous owner, user, positions, metadata}, or nil when there is no such session
--
-- From here on saves and drops of the previous owner are refused; the message only spares it the attempt.
local state = redis.call('HMGET', KEYS[1], 'owner', 'user', 'positions', 'metadata')
if not (state[1] and state[2] and state[3] and state[4]) then return false end
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local boot, sid = string.match(state[1], '^([^:]*):(.*)$')
if boot and boot ~= string.match(ARGV[1], '^[^:]*') then
  redis.call('PUBLISH', ARGV[2] .. boot, 'fenced ' .. sid)
end
return state
