-- Gives in-flight jobs back to the right end of their queues. To be called with the highest sequence numbers first, so
-- that the oldest job ends rightmost.
-- KEYS[1] lease, KEYS[2] in-flight hash, KEYS[3] set of queues
-- ARGV[1] "own": the lease must live; "gone": it must not; ARGV[2] prefix of queue lists, ARGV[3] prefix of the batches'
-- lists, then field, bare queue name, list of the batch ("" for none) and place in it of each job
-- Returns the number of jobs given back and the number of those whose payload somebody has deleted: they are given up.
-- The first is -1 when ARGV[1] is not so (nothing is changed then).
local call = redis.call
if call('EXISTS', KEYS[1]) ~= (ARGV[1] == 'own' and 1 or 0) then
  return {-1, 0}
end
local n, missing = 0, 0
for i = 4, #ARGV, 4 do
  local field, queue, list = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local payload = call('HGET', KEYS[2], field)
  if payload == '' and list ~= '' then
    payload = call('LINDEX', ARGV[3] .. list, ARGV[i + 3])
    if not payload then
      missing = missing + 1
      call('HDEL', KEYS[2], field)
    end
  end
  if payload then
    call('SADD', KEYS[3], queue)
    call('RPUSH', ARGV[2] .. queue, payload)
    call('HDEL', KEYS[2], field)
    n = n + 1
  end
end
return {n, missing}
