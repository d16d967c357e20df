-- Stores the budget, unless it is below what the live hosts are guaranteed.
-- ARGV[2] cluster, ARGV[3] connections, ARGV[4] minimum per host, ARGV[5] who, ARGV[6] reason, ARGV[7] "unset": only if there
-- is none; ARGV[8] "new": the caller vouches that no worker of the cluster has been running, so nothing is to be confirmed;
-- ARGV[9] connections a confirmation takes
-- Returns {verdict, live hosts, connections, minimum, serial, slots}; verdict: ok, kept (there is one), cluster (another
-- cluster's; the second element is its name) or short (nothing is changed).
local live = 0
for _, e in pairs(leases) do
  if e.state == 'L' and e.kind ~= 'c' then
    live = live + 1
  end
end
if cluster and cluster ~= ARGV[2] then
  return { 'cluster', cluster, 0, 0, 0, 0 }
end
if ARGV[7] == 'unset' and connections > 0 then
  return { 'kept', live, connections, min, serial, slots }
end
slots = math.max(slots, num(ARGV[9]))
if num(ARGV[3]) < live * num(ARGV[4]) + 2 * slots then
  return { 'short', live, connections, min, serial, slots }
end
connections, min = num(ARGV[3]), num(ARGV[4])
-- Whatever a person decides counts more than a budget that was found, also one that was found anew after Redis had forgotten.
if ARGV[7] == 'unset' then
  serial = serial + 1
else
  serial = math.max(serial, 1) + 1
end
call('HSET', KEYS[1], 'cluster', ARGV[2], 'connections', text(connections), 'min', text(min), 'serial', text(serial),
  'set_by', ARGV[5], 'set_at', text(now), 'reason', ARGV[6], 'slots', text(slots))
if ARGV[8] == 'new' and live == 0 and next(leases) == nil then
  call('HSET', KEYS[1], 'phase', 'normal')
end
return { 'ok', live, connections, min, serial, slots }
