-- Takes jobs of given classes out of shared queues and leaves the order of all others: look, add, remove. The first write
-- (HINCRBY) can be refused (out of memory); then nothing has changed.
-- KEYS[1] lease, KEYS[2] in-flight hash, KEYS[3] set of paused queues, KEYS[4..] queue lists
-- ARGV[1] jobs to take at most, ARGV[2] jobs to look at per queue, ARGV[3] bytes to look at over all queues,
-- ARGV[4] share of 10,000, ARGV[5] number of classes c, ARGV[6] number of hosts h, then c class names, h hosts, and the
-- bare name of each queue
-- Returns nil without a lease, else an array: first "<jobs looked at> <sequence number before the first> <jobs of queue
-- 1> <of 2> …", then the payloads in the order taken, numbered upwards by one.
local call, find, sub = redis.call, string.find, string.sub
if call('EXISTS', KEYS[1], KEYS[2]) < 2 then
  return false
end
local room, window, bytes, share = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local nclasses, nhosts = tonumber(ARGV[5]), tonumber(ARGV[6])
local classes, hosts = {}, {}
for i = 7, 6 + nclasses do
  classes[ARGV[i]] = true
end
for i = 7 + nclasses, 6 + nclasses + nhosts do
  hosts[#hosts + 1] = ARGV[i]
end
local names = 6 + nclasses + nhosts

-- A payload that only a JSON decoder can judge costs its length; there is so much of that per look.
local decode = 131072

local function decoded(job)
  if #job > decode then
    return false
  end
  decode = decode - #job
  local ok, object = pcall(cjson.decode, job)
  return ok and type(object) == 'table' and classes[object['class']] == true
end

-- In valid JSON the text ,"class":" is always a member's name: inside a string its quotes would be escaped. What is left
-- to find out is whether the member is the object's own (nothing opened before it, or nothing closes behind it but the
-- object itself) and whether another one follows, which would win.
local function native(job)
  local from, to
  if sub(job, 1, 10) == '{"class":"' then
    from, to = 1, 10
  else
    from, to = find(job, ',"class":"', 1, true)
    if not from then
      return false
    end
  end
  local stop = find(job, '"', to + 1, true)
  if not stop then
    return false
  end
  local list, object = find(job, '[', 2, true), find(job, '{', 2, true)
  local top = not (list and list < from) and not (object and object < from)
  local hit = classes[sub(job, to + 1, stop - 1)] == true
  if top and not hit then
    -- Another one that would win may follow, but whoever writes that may have it run by Ruby.
    return false
  end
  if find(job, '"class"', stop, true) then
    return decoded(job)
  end
  if top then
    return hit
  end
  if not hit then
    return false
  end
  local close = find(job, '[%]}]', stop)
  if close == #job then
    return true
  end
  return decoded(job)
end

local function inshare(job)
  local _, to = find(job, '"jid":"', 1, true)
  if not to then
    return false
  end
  local stop = find(job, '"', to + 1, true)
  if not stop or stop - to < 5 then
    return false
  end
  local digits = sub(job, stop - 4, stop - 1)
  if find(digits, '%X') then
    return false
  end
  return tonumber(digits, 16) * 10000 < share * 65536
end

local function tohost(job)
  for i = 1, nhosts do
    local h = hosts[i]
    if find(job, ',"https://' .. h .. '/', 1, true) or find(job, ',"https://' .. h .. '"', 1, true)
      or find(job, ',"http://' .. h .. '/', 1, true) or find(job, ',"http://' .. h .. '"', 1, true) then
      return true
    end
  end
  return false
end

local looked, head, out, n = 0, {}, {}, 1
local before
for q = 4, #KEYS do
  local key, name = KEYS[q], ARGV[names + q - 3]
  local taken, t = {}, 0
  -- tail counts the jobs taken that have nothing but taken ones to their right.
  local tail, seen, chunk = 0, 0, 4
  if room > 0 and bytes > 0 and redis.pcall('SISMEMBER', KEYS[3], name) ~= 1 then
    while seen < window and bytes > 0 and t < room do
      -- Small steps at first and after large payloads, so that a few of 10 MB do not come all at once.
      if chunk > window - seen then
        chunk = window - seen
      end
      local jobs = redis.pcall('LRANGE', key, -seen - chunk, -seen - 1)
      local got, largest = #jobs, 0
      for i = got, 1, -1 do
        local job = jobs[i]
        local size = #job
        if size > largest then
          largest = size
        end
        seen = seen + 1
        bytes = bytes - size
        if native(job) and (share >= 10000 or inshare(job)) and (nhosts == 0 or tohost(job)) then
          t = t + 1
          taken[t] = job
          if seen == t then
            tail = t
          end
        end
        if t >= room or bytes <= 0 then
          break
        end
      end
      if got < chunk then
        break
      end
      if chunk < 64 then
        chunk = chunk * 2
      end
      if chunk * largest > bytes then
        chunk = math.floor(bytes / largest)
      end
      if chunk < 1 then
        chunk = 1
      end
    end
  end
  looked = looked + seen
  if t > 0 then
    local seq = call('HINCRBY', KEYS[2], '#', t) - t
    before = before or seq
    local suffix = ' ' .. name
    local args, k = {}, 0
    for i = 1, t do
      seq = seq + 1
      args[k + 1] = seq .. suffix
      args[k + 2] = taken[i]
      k = k + 2
      n = n + 1
      out[n] = taken[i]
      if k == 2000 then
        call('HSET', KEYS[2], unpack(args, 1, k))
        k = 0
      end
    end
    if k > 0 then
      call('HSET', KEYS[2], unpack(args, 1, k))
    end
    if tail > 0 then
      call('LTRIM', key, 0, -tail - 1)
    end
    -- Equal bytes are equal jobs: of two the one further right was taken first, and that is the one which LREM removes.
    for i = tail + 1, t do
      call('LREM', key, -1, taken[i])
    end
    room = room - t
  end
  head[q - 3] = t
end
out[1] = looked .. ' ' .. (before or 0) .. ' ' .. table.concat(head, ' ')
return out
