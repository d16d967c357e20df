-- Extends a lease that still lives, and puts back its registration if somebody deleted that.
-- KEYS[1] lease, KEYS[2] in-flight hash, KEYS[3] registrations (hash)
-- ARGV[1] lease in ms, ARGV[2] holder, ARGV[3] JSON of the registration
-- Returns 1, or 0 when the lease (or the hash, which lives as long) is gone: nothing is changed then.
if redis.call('EXISTS', KEYS[1], KEYS[2]) < 2 then
  return 0
end
if redis.call('HEXISTS', KEYS[3], ARGV[2]) == 0 then
  redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
