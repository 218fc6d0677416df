-- Which of these users have a critical event that is due.
--
-- KEYS  due
-- ARGV  users
-- Reply those that have
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local found = {}
for i = 1, #ARGV do
  local first = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if first and tonumber(first) <= now then found[#found + 1] = ARGV[i] end
end
return found
