-- Moves due members of schedule or retry to their queues, or to dead those that are no jobs. A member that is no longer
-- there, or no longer due, is left out. For each: addition → removal.
-- KEYS[1] set, KEYS[2] set of queues, KEYS[3] dead
-- ARGV[1] now, ARGV[2] score for dead, ARGV[3] oldest score to stay in dead, ARGV[4] size of dead, ARGV[5] prefix of queue
-- lists, then three for each: member, bare queue name ("" to bury it), payload to push or bury
-- Returns one character for each: "m" moved, "b" buried, "-" left out.
local call = redis.call
local now = tonumber(ARGV[1])
local out, n, buried = {}, 0, false
for i = 6, #ARGV, 3 do
  n = n + 1
  out[n] = '-'
  local score = call('ZSCORE', KEYS[1], ARGV[i])
  if score and tonumber(score) <= now then
    if ARGV[i + 1] == '' then
      call('ZADD', KEYS[3], ARGV[2], ARGV[i + 2])
      out[n], buried = 'b', true
    else
      call('SADD', KEYS[2], ARGV[i + 1])
      call('LPUSH', ARGV[5] .. ARGV[i + 1], ARGV[i + 2])
      out[n] = 'm'
    end
    call('ZREM', KEYS[1], ARGV[i])
  end
end
if buried then
  call('ZREMRANGEBYSCORE', KEYS[3], '-inf', ARGV[3])
  call('ZREMRANGEBYRANK', KEYS[3], 0, '-' .. ARGV[4])
end
return table.concat(out)
