-- One call of a holder: it says what it holds, what it wants, and gets what is there. It registers, renews, grows, shrinks, gives
-- everything back, and claims what it held after Redis has forgotten; and it takes or keeps the confirmation.
-- ARGV[2] cluster, ARGV[3] generation the caller knows (or ""), ARGV[4] epoch, ARGV[5] "sync", "doubt" (sync, but the caller's
-- lease may have ended: where anything was forgotten since, it has) or "leave" (the epoch ends; only held stays counted), ARGV[6] number of the call, rising, ARGV[7] held: connections that the caller has or may open from now
-- until the reply, ARGV[8] wanted, ARGV[9] of these reserved for children, ARGV[10] demand, ARGV[11] priority, ARGV[12] lease in
-- ms, ARGV[13] kind, ARGV[14] host, ARGV[15] process, ARGV[16] connections that a confirmation takes, ARGV[17] the epoch under
-- which the caller would confirm (or ""), ARGV[18] "want" or "drop" it; ARGV[19..24] the last budget the caller saw: serial,
-- connections, minimum, who, when in ms, why
-- Returns {verdict, generation, phase, now, connections, minimum, serial, slots, granted, 1 if the caller confirms, set_by, set_at,
-- reason, then epoch and lease of all}. verdict: ok; ended: this epoch is over, close everything and begin another; stale: a
-- later call was here first; full: too many hosts; cluster: the ledger is another cluster's. Only ok grants anything.
if cluster and cluster ~= ARGV[2] then
  return { 'cluster', generation, phase, text(now), 0, 0, 0, 0, 0, 0, '', '', cluster }
end
local who, when, why = fields[10] or '', fields[11] or '', fields[12] or ''
if num(ARGV[19]) > serial then
  -- This Redis is older than its client. What a person decided last is what counts.
  serial, connections, min = num(ARGV[19]), num(ARGV[20]), num(ARGV[21])
  who, when, why = ARGV[22], ARGV[23], ARGV[24]
  call('HSET', KEYS[1], 'serial', text(serial), 'connections', text(connections), 'min', text(min), 'set_by', who, 'set_at', when,
    'reason', why)
end
if not cluster then
  call('HSET', KEYS[1], 'cluster', ARGV[2])
end
if num(ARGV[16]) > slots then
  slots = num(ARGV[16])
  call('HSET', KEYS[1], 'slots', text(slots))
end

local known, epoch, n, has = ARGV[3], ARGV[4], num(ARGV[6]), num(ARGV[7])
local e = leases[epoch]
local verdict = 'ok'
if ARGV[5] == 'doubt' and known ~= generation and has + num(ARGV[9]) > 0 then
  -- What was forgotten may be that this lease had ended, and that others have what it held.
  verdict = 'ended'
  if e and e.state == 'L' then
    e.granted, e.state, e.since, e.call = math.max(e.granted, has), 'E', now, math.max(e.call, n)
    store(epoch, e)
  end
elseif not e then
  if ARGV[5] == 'leave' then
    verdict = 'ended'
  elseif has == 0 and num(ARGV[9]) == 0 then
    local count = 0
    for _, l in pairs(leases) do
      if l.kind ~= 'c' then
        count = count + 1
      end
    end
    if count >= 1000 then
      verdict = 'full'
    end
  elseif phase ~= 'recovering' or known == '' or known == generation then
    verdict = 'ended'
  end
  if verdict == 'ok' then
    e = { kind = ARGV[13], state = 'L', call = 0, granted = has, since = now, host = ARGV[14], proc = ARGV[15] }
  end
elseif e.state ~= 'L' then
  verdict = 'ended'
elseif n <= e.call then
  verdict = 'stale'
elseif phase == 'recovering' and known ~= generation then
  -- A claim is a fact, whatever this Redis remembers.
  e.granted = has
elseif has > e.granted then
  -- Cannot be in one history. Counted as the worst of both until PostgreSQL has shown.
  e.granted, e.state, e.since, e.call = has, 'E', now, n
  store(epoch, e)
  verdict = 'ended'
end

local granted = 0
if verdict == 'ok' then
  local new = leases[epoch] == nil
  e.call, e.granted, e.reserved, e.demand, e.priority = n, has, num(ARGV[9]), num(ARGV[10]), num(ARGV[11])
  if ARGV[5] == 'leave' then
    if has == 0 then
      drop(epoch)
    else
      e.state, e.since, e.demand = 'E', now, 0
      store(epoch, e)
    end
  else
    e.expires = now + num(ARGV[12])
    leases[epoch] = e
    -- A registration gets nothing yet: one that arrives late, of a holder that has gone, must not take anything with it.
    if phase == 'normal' and not new and num(ARGV[8]) > has then
      local free = connections - 2 * slots - held(false)
      if free > 0 then
        e.granted = has + math.min(free, num(ARGV[8]) - has)
      end
    end
    granted = e.granted
    store(epoch, e)
  end
end

local confirms = 0
if verdict == 'ok' and ARGV[17] ~= '' then
  local c = leases[ARGV[17]]
  if ARGV[18] == 'drop' then
    if c and c.kind == 'c' then
      drop(ARGV[17])
    end
  elseif c then
    if c.kind == 'c' and c.state == 'L' then
      c.expires, confirms = now + num(ARGV[12]), 1
      store(ARGV[17], c)
    end
  elseif ARGV[5] ~= 'leave' then
    local need, taken = phase == 'recovering' or now - confirmed > 60000 or confirmed > now + 60000, false
    for _, l in pairs(leases) do
      taken = taken or l.kind == 'c' and l.state == 'L'
      need = need or l.state ~= 'L'
    end
    if need and not taken and held(true) + num(ARGV[16]) <= 2 * slots then
      store(ARGV[17], { kind = 'c', state = 'L', call = 0, granted = num(ARGV[16]), reserved = 0, demand = 0, priority = 0,
        expires = now + num(ARGV[12]), since = now, host = ARGV[14], proc = ARGV[15] })
      confirms = 1
    end
  end
end

local reply = { verdict, generation, phase, text(now), connections, min, text(serial), slots, granted, confirms, who, when, why }
local rows = call('HGETALL', KEYS[2])
for i = 1, #rows do
  reply[13 + i] = rows[i]
end
return reply
