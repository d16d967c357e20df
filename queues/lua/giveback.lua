-- Gives in-flight jobs back to the right end of their queues. To be called with the highest sequence numbers first, so
-- that the oldest job ends rightmost.
-- KEYS[1] lease, KEYS[2] in-flight hash, KEYS[3] set of queues
-- ARGV[1] "own": the lease must live; "gone": it must not; ARGV[2] prefix of queue lists, then field and bare queue name
-- of each job
-- Returns the number of jobs given back, -1 when ARGV[1] is not so (nothing is changed then).
local call = redis.call
if call('EXISTS', KEYS[1]) ~= (ARGV[1] == 'own' and 1 or 0) then
  return -1
end
local n = 0
for i = 3, #ARGV, 2 do
  local payload = call('HGET', KEYS[2], ARGV[i])
  if payload then
    call('SADD', KEYS[3], ARGV[i + 1])
    call('RPUSH', ARGV[2] .. ARGV[i + 1], payload)
    call('HDEL', KEYS[2], ARGV[i])
    n = n + 1
  end
end
return n
