-- Puts what is left of a batch into the in-flight hash, so that one slow job does not keep all the others' payloads.
-- The first write (HSET) can be refused (out of memory); then nothing has changed.
-- KEYS[1] lease, KEYS[2] in-flight hash, KEYS[3] batches (hash), KEYS[4] list of the batch
-- ARGV[1] name of the batch, ARGV[2] sequence number of its first job, ARGV[3] number of jobs, ARGV[4] bare name of the queue
-- Returns nil without a lease, else how many were left.
local call = redis.call
if call('EXISTS', KEYS[1], KEYS[2]) < 2 then
  return false
end
local first, size, suffix = tonumber(ARGV[2]), tonumber(ARGV[3]), ' ' .. ARGV[4]
local args, k = {}, 0
for i = 0, size - 1 do
  local field = (first + i) .. suffix
  if call('HGET', KEYS[2], field) == '' then
    local payload = call('LINDEX', KEYS[4], -i - 1)
    if payload then
      args[k + 1] = field
      args[k + 2] = payload
      k = k + 2
    end
  end
end
if k > 0 then
  call('HSET', KEYS[2], unpack(args, 1, k))
end
call('DEL', KEYS[4])
call('HDEL', KEYS[3], ARGV[1])
return k / 2
