-- Moves jobs from the right end of queues into the in-flight set: read, add, remove, in that order. The first write
-- (HINCRBY or SORT) can be refused (out of memory); then nothing has changed.
--
-- Lua hashes every byte of a string that it is handed, which costs more than all else together, so only the first few
-- payloads of a queue pass through here, into the in-flight hash. The others are copied into a list, a batch, by Redis
-- itself, and their fields in the hash are empty.
-- KEYS[1] lease, KEYS[2] in-flight hash, KEYS[3] batches (hash), KEYS[4] set of paused queues, KEYS[5..] queue lists in
-- order of preference
-- ARGV[1] jobs to take at most, ARGV[2] bytes after which no more are taken, ARGV[3] prefix of the batches' lists,
-- ARGV[4] jobs of a batch at most, ARGV[5] how the lists of this call are called, numbered from 1 behind it, ARGV[6..]
-- bare name of each queue, then, if there are limits, two budgets and for each queue what one
-- job is expected to take of them and how many may be taken
-- Returns nil without a lease, else an array: first a line of numbers, four for each part taken: index of the queue from
-- 1, sequence number of the first job, number of jobs, and the batch's number, 0 if they are none; then the payloads of the parts that are not.
local call, pcall = redis.call, redis.pcall
if call('EXISTS', KEYS[1], KEYS[2]) < 2 then
  return false
end
local room, bytes, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
local parts, out, n, lists = {}, {}, 1, 0
local limits = #KEYS + 2 -- place of the first budget
local budgets = {tonumber(ARGV[limits]), tonumber(ARGV[limits + 1])}

local function part(queue, first, size, batch)
  parts[#parts + 1] = queue .. ' ' .. first .. ' ' .. size .. ' ' .. batch
end

for q = 5, #KEYS do
  local key, name, got = KEYS[q], ARGV[q + 1], 0
  local suffix = ' ' .. name
  if room > 0 and bytes > 0 and pcall('SISMEMBER', KEYS[4], name) ~= 1 then
    -- The next part is of a size that fits even if all are as large as the largest so far, so that a few of 10 MB do not come all at once.
    local chunk, largest, sortable = 8, 1, true
    local at = limits - 1 + 3 * (q - 4)
    local costs, most = {tonumber(ARGV[at]) or 0, tonumber(ARGV[at + 1]) or 0}, tonumber(ARGV[at + 2])
    while room > 0 and bytes > 0 do
      if chunk > room then
        chunk = room
      end
      if most and chunk > most - got then
        chunk = most - got
      end
      for b = 1, 2 do
        if costs[b] > 0 and chunk > budgets[b] / costs[b] then
          chunk = math.floor(budgets[b] / costs[b])
        end
      end
      if chunk < 1 then
        break
      end
      local size = 0
      if chunk > 8 and sortable then
        local length = call('LLEN', key) - got
        if chunk > length then
          chunk = length
        end
        if chunk > 8 then
          local first = (tonumber(call('HGET', KEYS[2], '#')) or 0) + 1
          local list = ARGV[5] .. (lists + 1)
          local sorted = pcall('SORT', key, 'BY', 'nosort', 'LIMIT', length - chunk, chunk, 'STORE', ARGV[3] .. list)
          if sorted == chunk then
            size = chunk
            lists = lists + 1
            call('HINCRBY', KEYS[2], '#', size)
            call('HSET', KEYS[3], first .. ':' .. size .. ':' .. list .. suffix, size)
            local args, k = {}, 0
            for seq = first, first + size - 1 do
              args[k + 1] = seq .. suffix
              args[k + 2] = ''
              k = k + 2
            end
            call('HSET', KEYS[2], unpack(args, 1, k))
            part(q - 4, first, size, lists)
            local used = pcall('MEMORY', 'USAGE', ARGV[3] .. list, 'SAMPLES', 0)
            if type(used) ~= 'number' then
              used = size * largest
            end
            bytes = bytes - used
            if used / size > largest then
              largest = used / size
            end
          else -- a server that does not let us
            sortable = false
          end
        end
      end
      if size == 0 then
        local jobs = pcall('LRANGE', key, -got - chunk, -got - 1)
        size = #jobs -- 0 for an error: a key of that name that is no list
        if size == 0 then
          break
        end
        local first = call('HINCRBY', KEYS[2], '#', size) - size + 1
        local args, k = {}, 0
        for i = size, 1, -1 do
          local job = jobs[i]
          args[k + 1] = (first + size - i) .. suffix
          args[k + 2] = job
          k = k + 2
          n = n + 1
          out[n] = job
          bytes = bytes - #job
          if #job > largest then
            largest = #job
          end
        end
        call('HSET', KEYS[2], unpack(args, 1, k))
        part(q - 4, first, size, 0)
      end
      got = got + size
      room = room - size
      for b = 1, 2 do
        if costs[b] > 0 then
          budgets[b] = budgets[b] - size * costs[b]
        end
      end
      if size < chunk then
        break
      end
      chunk = math.floor(bytes / largest / 2)
      if chunk < 1 then
        chunk = 1
      elseif chunk > limit then
        chunk = limit
      end
    end
    if got > 0 then
      call('LTRIM', key, 0, -got - 1)
    end
  end
end
out[1] = table.concat(parts, ' ')
return out
