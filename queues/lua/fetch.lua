-- Moves jobs from the right end of queues into the in-flight hash: read, add, remove, in that order. The first write
-- (HINCRBY) can be refused (out of memory); then nothing has changed.
-- KEYS[1] lease, KEYS[2] in-flight hash, KEYS[3] set of paused queues, KEYS[4..] queue lists in order of preference
-- ARGV[1] jobs to take at most, ARGV[2] bytes after which no more are taken, ARGV[3..] bare name of each queue
-- Returns nil without a lease, else an array: first "<sequence number before the first> <jobs of queue 1> <of 2> …",
-- then the payloads in the order taken, numbered upwards by one.
local call = redis.call
if call('EXISTS', KEYS[1], KEYS[2]) < 2 then
  return false
end
local room, bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local head, out, n = {}, {}, 1
local before
for q = 4, #KEYS do
  local got = 0
  local name = ARGV[q - 1]
  if room > 0 and bytes > 0 and redis.pcall('SISMEMBER', KEYS[3], name) ~= 1 then
    -- In chunks, the next of a size that fits even if all are as large as the largest so far, so that a few of 10 MB do not come all at once.
    local chunk, largest = 8, 1
    while room > 0 and bytes > 0 do
      if chunk > room then
        chunk = room
      end
      local jobs = redis.pcall('LRANGE', KEYS[q], -got - chunk, -got - 1)
      local size = #jobs -- 0 for an error: a key of that name that is no list
      if size == 0 then
        break
      end
      local seq = call('HINCRBY', KEYS[2], '#', size) - size
      before = before or seq
      local suffix = ' ' .. name
      local args, k = {}, 0
      for i = size, 1, -1 do
        local job = jobs[i]
        seq = seq + 1
        args[k + 1] = seq .. suffix
        args[k + 2] = job
        k = k + 2
        n = n + 1
        out[n] = job
        bytes = bytes - #job
        if #job > largest then
          largest = #job
        end
        if k == 2000 then
          call('HSET', KEYS[2], unpack(args, 1, k))
          k = 0
        end
      end
      if k > 0 then
        call('HSET', KEYS[2], unpack(args, 1, k))
      end
      got = got + size
      room = room - size
      if size < chunk then
        break
      end
      chunk = math.floor(bytes / largest / 2)
      if chunk < 1 then
        chunk = 1
      elseif chunk > 500 then
        chunk = 500
      end
    end
    if got > 0 then
      call('LTRIM', KEYS[q], 0, -got - 1)
    end
  end
  head[q - 3] = got
end
out[1] = (before or 0) .. ' ' .. table.concat(head, ' ')
return out
