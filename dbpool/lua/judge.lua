-- What PostgreSQL, a neighbour or the holder itself has shown about leases. Every judgement is a fact that stays true, so it does not
-- matter how late it arrives, as long as the generation is the one it was made in.
-- ARGV[2] generation, ARGV[3..] judgements, five elements each: what, epoch, number, host, process
--   "left" epoch n: of an ended lease no more than n connections can be open, now or ever
--   "gone" epoch:   its process has ended
--   "over" epoch:   its process has ended, and all of its child processes
--   "seen" epoch n host: n connections are open of an epoch that is nobody's, has ended, or is remembered with less by a Redis
--                    that has forgotten: so many are counted from now on
--   "done":         all that was open when the generation began is in the ledger, and what is not can never be opened
--   "look":         PostgreSQL has been asked
-- Returns {"ok" or "generation" (nothing is changed), then for each judgement 1 if it changed anything, else 0}.
if ARGV[2] ~= generation then
  return { 'generation' }
end
local reply = { 'ok' }
for i = 3, #ARGV, 5 do
  local what, epoch, n = ARGV[i], ARGV[i + 1], num(ARGV[i + 2])
  local e, did = leases[epoch], 0
  if what == 'left' then
    if e and e.state ~= 'L' and e.granted > n then
      did = 1
      if n == 0 then
        drop(epoch)
      else
        e.granted, e.reserved = n, math.min(e.reserved, n)
        store(epoch, e)
      end
    end
  elseif what == 'gone' then
    if e and e.state ~= 'G' then
      did = 1
      if e.granted == 0 then
        drop(epoch)
      else
        e.state, e.since = 'G', now
        store(epoch, e)
      end
    end
  elseif what == 'over' then
    if e and (e.state ~= 'G' or e.reserved > 0) then
      did = 1
      if e.granted == 0 then
        drop(epoch)
      else
        e.state, e.since, e.reserved = 'G', now, 0
        store(epoch, e)
      end
    end
  elseif what == 'seen' then
    if not e and n > 0 then
      did = 1
      store(epoch, { kind = 'w', state = 'E', call = 0, granted = n, reserved = 0, demand = 0, priority = 0, expires = 0, since = now,
        host = ARGV[i + 3], proc = '-' })
    elseif e and e.granted < n and (e.state ~= 'L' or phase == 'recovering') then
      did, e.granted = 1, n
      store(epoch, e)
    end
  elseif what == 'done' then
    if phase == 'recovering' then
      did, phase = 1, 'normal'
      call('HSET', KEYS[1], 'phase', phase)
    end
  elseif what == 'look' then
    did = 1
    call('HSET', KEYS[1], 'confirmed', text(now))
  end
  reply[#reply + 1] = did
end
return reply
