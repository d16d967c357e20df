-- Ends a holder that holds nothing: lease, in-flight hash, batches, registration.
-- KEYS[1] lease, KEYS[2] in-flight hash, KEYS[3] batches (hash), KEYS[4] registrations (hash)
-- ARGV[1] "own": the lease must live; "gone": it must not; ARGV[2] holder, ARGV[3] prefix of the batches' lists
-- Returns 1 when the holder is gone, 0 when it holds something, -1 when ARGV[1] is not so.
local call = redis.call
if call('EXISTS', KEYS[1]) ~= (ARGV[1] == 'own' and 1 or 0) then
  return -1
end
if call('HLEN', KEYS[2]) > 1 or (call('HLEN', KEYS[2]) == 1 and call('HEXISTS', KEYS[2], '#') == 0) then
  return 0
end
for _, batch in ipairs(call('HKEYS', KEYS[3])) do
  local list = string.match(batch, '^%d+:%d+:(%S+)')
  if list then
    call('DEL', ARGV[3] .. list)
  end
end
call('DEL', KEYS[1], KEYS[2], KEYS[3])
call('HDEL', KEYS[4], ARGV[2])
return 1
