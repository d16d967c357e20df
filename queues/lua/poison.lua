-- Counts the death of a process against a job that ran in it.
-- KEYS[1] sorted set of the job's deaths: name of the death → when, in milliseconds
-- ARGV[1] name of the death; ARGV[2] now and ARGV[3] window, in milliseconds; ARGV[4] deaths kept at most
-- Returns the deaths within the window, this one included. The same name counts once.
local call = redis.call
call('ZADD', KEYS[1], 'NX', ARGV[2], ARGV[1])
call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2] - ARGV[3])
call('ZREMRANGEBYRANK', KEYS[1], 0, -ARGV[4] - 1)
call('PEXPIRE', KEYS[1], ARGV[3])
return call('ZCARD', KEYS[1])
