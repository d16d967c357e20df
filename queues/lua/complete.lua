-- Carries out the outcomes of in-flight jobs. For each: still held → addition → removal from the in-flight hash.
-- KEYS[1] lease, KEYS[2] in-flight hash, KEYS[3] retry, KEYS[4] schedule, KEYS[5] dead, KEYS[6] set of queues
-- ARGV[1] number of acks, ARGV[2] "1" to find out of each ack whether it was held, else "0", ARGV[3] oldest score to stay
-- in dead, ARGV[4] size of dead, ARGV[5] prefix of queue lists, then the fields to ack, then five for each other outcome:
-- op (r, s, d, q, f), field, payload ("" for the bytes in flight), score, bare name of the queue (q, f)
-- Returns nil without a lease, else an array: the number of acks that were held, then the index (from 1; acks first) of
-- everything that was not; acks are left out of that with ARGV[2] = "0".
local call = redis.call
local inflight = KEYS[2]
if call('EXISTS', KEYS[1], inflight) < 2 then
  return false
end
local acks = tonumber(ARGV[1])
local out, n = {0}, 1
if ARGV[2] == '1' then
  for i = 1, acks do
    if call('HDEL', inflight, ARGV[5 + i]) == 1 then
      out[1] = out[1] + 1
    else
      n = n + 1
      out[n] = i
    end
  end
else
  for i = 1, acks, 2000 do
    local last = i + 1999
    if last > acks then
      last = acks
    end
    out[1] = out[1] + call('HDEL', inflight, unpack(ARGV, 5 + i, 5 + last))
  end
end
local sets = {r = KEYS[3], s = KEYS[4], d = KEYS[5]}
local died = false
local index = acks
for i = 6 + acks, #ARGV, 5 do
  index = index + 1
  local op, field, payload = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local held
  if payload == '' then
    payload = call('HGET', inflight, field)
    held = payload
  else
    held = call('HEXISTS', inflight, field) == 1
  end
  if held then
    local set = sets[op]
    if set then
      call('ZADD', set, ARGV[i + 3], payload)
      died = died or op == 'd'
    elseif op == 'q' then
      call('SADD', KEYS[6], ARGV[i + 4])
      call('RPUSH', ARGV[5] .. ARGV[i + 4], payload)
    elseif op == 'f' then
      call('SADD', KEYS[6], ARGV[i + 4])
      call('LPUSH', ARGV[5] .. ARGV[i + 4], payload)
    end
    call('HDEL', inflight, field)
  else
    n = n + 1
    out[n] = index
  end
end
if died then
  call('ZREMRANGEBYSCORE', KEYS[5], '-inf', ARGV[3])
  call('ZREMRANGEBYRANK', KEYS[5], 0, '-' .. ARGV[4])
end
return out
