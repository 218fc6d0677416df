-- Compare the server that a new connection reached with the one the generation belongs to.
--
-- KEYS  generation
-- ARGV  1 the server's run id ('' when it does not tell)  2 a fresh random token  3 of how many partitions this is one
--       4 the format that this release writes  5 the oldest and  6 the newest that it reads
-- Reply the token in force; the error PARTITIONS with the right number when the data are divided into another, or FORMAT
-- when they have a format that this release does not read
--
-- A server that restarted, or a replica that was promoted, may have lost a tail of what was acknowledged.  Its run
-- id differs, so a new generation begins, and with it a new epoch in each room: nobody resumes over the hole.
local stored = redis.call('HMGET', KEYS[1], 'token', 'run', 'partitions', 'format')
local token, run = stored[1], stored[2]
local partitions = stored[3] or (token and '1') or ARGV[3] -- it was not written before there were several
if partitions ~= ARGV[3] then return redis.error_reply('PARTITIONS ' .. partitions .. ' and not ' .. ARGV[3]) end
local format = tonumber(stored[4] or '1') -- it was not written before there were several
if token and (format < tonumber(ARGV[5]) or format > tonumber(ARGV[6])) then
  return redis.error_reply('FORMAT ' .. format .. ' ' .. ARGV[5] .. ' ' .. ARGV[6])
end
if not stored[4] or format < tonumber(ARGV[4]) then redis.call('HSET', KEYS[1], 'format', ARGV[4]) end
if not stored[3] then redis.call('HSET', KEYS[1], 'partitions', partitions) end
if not token or (run and ARGV[1] ~= '' and run ~= ARGV[1]) then token = ARGV[2] end
if token ~= stored[1] then redis.call('HSET', KEYS[1], 'token', token) end
if ARGV[1] ~= '' and run ~= ARGV[1] then redis.call('HSET', KEYS[1], 'run', ARGV[1]) end
return token
