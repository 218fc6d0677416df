-- Make somebody the owner of a session and tell the previous owner's worker.
--
-- KEYS  session, generation
-- ARGV  1 new owner ("<boot>:<sid>")  2 prefix of control channels  3 ttl ms  4 the user who asks, if that matters
-- Reply {previous owner, user, positions, metadata, more, the generation it was saved in if another is in force}, nil when
-- there is no such session, 0 when it is another user's
--
-- From here on saves and drops of the previous owner are refused; the message only spares it the attempt.
local state = redis.call('HMGET', KEYS[1], 'owner', 'user', 'positions', 'metadata', 'more', 'generation')
if not (state[1] and state[2] and state[3] and state[4]) then return false end
if ARGV[4] and string.sub(state[2], 1, 5) ~= 'anon:' and state[2] ~= ARGV[4] then return 0 end
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local boot, sid = string.match(state[1], '^([^:]*):(.*)$')
if boot and boot ~= string.match(ARGV[1], '^[^:]*') then
  redis.call('PUBLISH', ARGV[2] .. boot, 'fenced ' .. sid)
end
if state[6] == redis.call('HGET', KEYS[2], 'token') then state[6] = false end
return state
