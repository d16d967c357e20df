-- Takes, renews or gives up a lease that at most one holder has.
-- KEYS[1] lease: "<fence> <identity>" of the holder, or "free" after a release; KEYS[2] fencing counter
-- ARGV[1] "take", "renew" or "release"; ARGV[2] identity (take) or the whole value (renew, release); ARGV[3] how long it
-- lasts in milliseconds; ARGV[4] "absent": take it also where no key is (else only after a release)
-- Returns for take: the new value, "" if another holds it, "absent" if nobody does and it was not taken; for renew and
-- release: the value if it was so, else "".
local call = redis.call
local value = call('GET', KEYS[1])
if ARGV[1] == 'take' then
  if value and value ~= 'free' then
    return ''
  end
  if not value and ARGV[4] ~= 'absent' then
    return 'absent'
  end
  value = call('INCR', KEYS[2]) .. ' ' .. ARGV[2]
  call('SET', KEYS[1], value, 'PX', ARGV[3])
  return value
end
if value ~= ARGV[2] then
  return ''
end
if ARGV[1] == 'renew' then
  call('PEXPIRE', KEYS[1], ARGV[3])
else
  call('SET', KEYS[1], 'free', 'PX', ARGV[3])
end
return value
