-- Takes queues that are empty off Sidekiq's list.
-- KEYS[1] set of queues, KEYS[2..] their lists
-- ARGV[1..] their bare names
-- Returns how many names are gone.
local n = 0
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    n = n + redis.call('SREM', KEYS[1], ARGV[i - 1])
  end
end
return n
