-- Begins every script of the ledger: what time it is, which generation this is, what every lease holds.
-- KEYS[1] state (hash), KEYS[2] leases (hash); ARGV[1] name for a new generation, should one begin.
-- A lease is "kind state call granted reserved demand priority expires since host proc":
--   kind w worker, p worker behind PgBouncer, c confirmation; state L live, E ended, G ended and its process gone;
--   call the holder's number of its last call; granted, reserved (of these, for child processes) and demand in connections;
--   expires and since (of this state) in ms of this server's clock.
local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function num(v)
  return tonumber(v) or 0
end
local function text(v)
  return string.format('%.0f', v)
end

local fields = call('HMGET', KEYS[1], 'generation', 'run', 'phase', 'connections', 'min', 'serial', 'slots', 'cluster',
  'confirmed', 'set_by', 'set_at', 'reason')
local generation, run, phase = fields[1], fields[2], fields[3]
local connections, min, serial, slots, cluster = num(fields[4]), num(fields[5]), num(fields[6]), num(fields[7]), fields[8]
local confirmed = num(fields[9])

-- A server that was started again or is another one (fail-over) may have forgotten what it had promised.
local info = redis.pcall('INFO', 'server')
local running = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or 'unknown'
if not generation or run ~= running then
  generation, phase = ARGV[1], 'recovering'
  call('HSET', KEYS[1], 'generation', generation, 'run', running, 'phase', phase, 'since', text(now))
end

local leases = {}
local function store(epoch, e)
  call('HSET', KEYS[2], epoch, table.concat({ e.kind, e.state, text(e.call), text(e.granted), text(e.reserved), text(e.demand),
    text(e.priority), text(e.expires), text(e.since), e.host, e.proc }, ' '))
  leases[epoch] = e
end
local function drop(epoch)
  call('HDEL', KEYS[2], epoch)
  leases[epoch] = nil
end

local all = call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  local kind, state, n, granted, reserved, demand, priority, expires, since, host, proc = string.match(all[i + 1],
    '^(%a) (%a) (%d+) (%d+) (%d+) (%d+) (%-?%d+) (%d+) (%d+) (%S+) (%S+)$')
  if kind then
    local epoch = all[i]
    local e = { kind = kind, state = state, call = num(n), granted = num(granted), reserved = num(reserved), demand = num(demand),
      priority = num(priority), expires = num(expires), since = num(since), host = host, proc = proc }
    leases[epoch] = e
    if state == 'L' and e.expires <= now then
      if e.granted == 0 then
        drop(epoch)
      else
        e.state, e.since = 'E', now
        store(epoch, e)
      end
    elseif state == 'L' and e.expires > now + 60000 then
      -- The clock was set back. A lease of the dead must not live until it is that late again.
      e.expires = now + 60000
      store(epoch, e)
    elseif kind == 'c' and state ~= 'L' and (now - e.since > 600000 or e.since > now + 60000) then
      -- Nobody could confirm the confirmers. PostgreSQL has ended their sessions long ago (idle_session_timeout).
      drop(epoch)
    end
  end
end

-- held is how many connections the leases of workers, or of confirmations, may have open.
local function held(confirmations)
  local n = 0
  for _, e in pairs(leases) do
    if (e.kind == 'c') == confirmations then
      n = n + e.granted
    end
  end
  return n
end
