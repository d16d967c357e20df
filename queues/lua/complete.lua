-- Carries out the outcomes of in-flight jobs. For each: still held → addition → removal from the in-flight set.
-- KEYS[1] lease, KEYS[2] in-flight hash, KEYS[3] batches (hash), KEYS[4] retry, KEYS[5] schedule, KEYS[6] dead,
-- KEYS[7] set of queues
-- ARGV[1] number of groups of acks, ARGV[2] "1" to find out of each ack whether it was held, else "0", ARGV[3] oldest
-- score to stay in dead, ARGV[4] size of dead, ARGV[5] prefix of queue lists, ARGV[6] prefix of the batches' lists, then
-- the groups: name of the batch ("" for none), number of acks, the fields; then six for each other outcome: op (r, s, d,
-- q, f), field, payload ("" for the bytes in flight), score, bare name of the queue (q, f), name of the batch
-- Returns nil without a lease, else an array: the number of acks that were held, then the index (from 1; acks first) of
-- everything that was not; acks are left out of that with ARGV[2] = "0".
local call = redis.call
local inflight = KEYS[2]
if call('EXISTS', KEYS[1], inflight) < 2 then
  return false
end

-- A batch goes with its last job. It may have gone before, when its last jobs were put into the hash.
local function leave(batch, jobs)
  if batch ~= '' and jobs > 0 and call('HINCRBY', KEYS[3], batch, -jobs) <= 0 then
    call('DEL', ARGV[6] .. string.match(batch, '^%d+:%d+:(%S+)'))
    call('HDEL', KEYS[3], batch)
  end
end

local function bytes(field, batch)
  local payload = call('HGET', inflight, field)
  if payload == '' and batch ~= '' then
    local first, list = string.match(batch, '^(%d+):%d+:(%S+)')
    return call('LINDEX', ARGV[6] .. list, first - string.match(field, '^%d+') - 1)
  end
  return payload
end

local out, n = {0}, 1
local at, index = 7, 0
for _ = 1, tonumber(ARGV[1]) do
  local batch, acks = ARGV[at], tonumber(ARGV[at + 1])
  local held = 0
  if ARGV[2] == '1' then
    for i = 1, acks do
      if call('HDEL', inflight, ARGV[at + 1 + i]) == 1 then
        held = held + 1
      else
        n = n + 1
        out[n] = index + i
      end
    end
  else
    held = call('HDEL', inflight, unpack(ARGV, at + 2, at + 1 + acks))
  end
  leave(batch, held)
  out[1] = out[1] + held
  at = at + 2 + acks
  index = index + acks
end
local sets = {r = KEYS[4], s = KEYS[5], d = KEYS[6]}
local died = false
for i = at, #ARGV, 6 do
  index = index + 1
  local op, field, payload, batch = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 5]
  local held
  if payload == '' then
    payload = bytes(field, batch)
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
      call('SADD', KEYS[7], ARGV[i + 4])
      call('RPUSH', ARGV[5] .. ARGV[i + 4], payload)
    elseif op == 'f' then
      call('SADD', KEYS[7], ARGV[i + 4])
      call('LPUSH', ARGV[5] .. ARGV[i + 4], payload)
    end
    call('HDEL', inflight, field)
    leave(batch, 1)
  else
    n = n + 1
    out[n] = index
  end
end
if died then
  call('ZREMRANGEBYSCORE', KEYS[6], '-inf', ARGV[3])
  call('ZREMRANGEBYRANK', KEYS[6], 0, '-' .. ARGV[4])
end
return out
