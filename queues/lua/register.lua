-- Registers a holder: generation, in-flight hash with what is to be restored, registration, lease.
-- The first write can be refused (out of memory); then nothing has changed.
-- KEYS[1] epoch counter, KEYS[2] generation, KEYS[3] registrations (hash)
-- ARGV[1] lowest epoch allowed, ARGV[2] generation to set if there is none, ARGV[3] identity, ARGV[4] JSON of the
--   registration with the epoch left out as "%E", ARGV[5] lease in ms, ARGV[6] prefix of lease keys, ARGV[7] prefix of
--   in-flight keys, ARGV[8..] bare queue name and payload of each job to restore, in order
-- Returns {epoch, generation}. Restored jobs have the sequence numbers 1, 2, …
local call = redis.call
local epoch = call('INCR', KEYS[1])
if epoch < tonumber(ARGV[1]) then
  -- Redis has forgotten the counter; this process has not. A holder's name must never come back.
  epoch = tonumber(ARGV[1])
  call('SET', KEYS[1], string.format('%.0f', epoch))
end
local text = string.format('%.0f', epoch)
local holder = ARGV[3] .. '/' .. text
local inflight = ARGV[7] .. holder
call('SETNX', KEYS[2], ARGV[2])
local jobs = (#ARGV - 7) / 2
local batch, n = {}, 0
for i = 1, jobs do
  batch[n + 1] = i .. ' ' .. ARGV[6 + 2 * i]
  batch[n + 2] = ARGV[7 + 2 * i]
  n = n + 2
  if n >= 1000 then
    call('HSET', inflight, unpack(batch, 1, n))
    n = 0
  end
end
if n > 0 then
  call('HSET', inflight, unpack(batch, 1, n))
end
call('HSET', inflight, '#', jobs)
local from, to = string.find(ARGV[4], '%E', 1, true)
call('HSET', KEYS[3], holder, string.sub(ARGV[4], 1, from - 1) .. text .. string.sub(ARGV[4], to + 1))
call('SET', ARGV[6] .. holder, '1', 'PX', ARGV[5])
return {text, call('GET', KEYS[2])}
