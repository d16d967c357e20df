-- Ends a holder that holds nothing: lease, in-flight hash, registration.
-- KEYS[1] lease, KEYS[2] in-flight hash, KEYS[3] registrations (hash)
-- ARGV[1] "own": the lease must live; "gone": it must not; ARGV[2] holder
-- Returns 1 when the holder is gone, 0 when it holds something, -1 when ARGV[1] is not so.
local call = redis.call
if call('EXISTS', KEYS[1]) ~= (ARGV[1] == 'own' and 1 or 0) then
  return -1
end
if call('HLEN', KEYS[2]) > 1 or (call('HLEN', KEYS[2]) == 1 and call('HEXISTS', KEYS[2], '#') == 0) then
  return 0
end
call('DEL', KEYS[1], KEYS[2])
call('HDEL', KEYS[3], ARGV[2])
return 1
