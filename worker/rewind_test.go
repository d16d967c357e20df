package worker

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/queues"
)

// rewind makes Redis forget the last n fetches of a holder, as a failover to a replica does that was a moment behind: the newest jobs in flight
// are on their queue again, and the counter of sequence numbers is where it was before.
var rewind = redis.NewScript(`
local last = tonumber(redis.call('HGET', KEYS[1], '#'))
local batches = redis.call('HKEYS', KEYS[3])
local function batched(seq)
  for _, name in ipairs(batches) do
    local first, size, list = string.match(name, '^(%d+):(%d+):(%S+)')
    if seq >= first + 0 and seq < first + size then
      return redis.call('LINDEX', KEYS[3] .. ':' .. list, first - seq - 1)
    end
  end
end
for seq = last, last - ARGV[1] + 1, -1 do
  local job = redis.call('HGET', KEYS[1], seq .. ' push')
  if job == '' then
    job = batched(seq)
  end
  if job then
    redis.call('RPUSH', KEYS[2], job)
    redis.call('HDEL', KEYS[1], seq .. ' push')
  end
end
redis.call('HINCRBY', KEYS[1], '#', -ARGV[1])
for _, name in ipairs(batches) do -- all of their jobs are among the last n
  redis.call('DEL', KEYS[3] .. ':' .. string.match(name, ':(%d+%.%d+) '))
end
redis.call('DEL', KEYS[3])
return 1`)

func TestFailoverToAReplicaThatWasBehind(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.delay = time.Hour
	release := make(chan struct{})
	f.do = func(context.Context, *queues.Job) Outcome {
		<-release
		return Outcome{Kind: Failed, ErrorClass: "TestError"}
	}
	const jobs, behind = 150, 145
	r.push("push", natives(0, jobs, "")...)
	w := r.start(f, func(c *Config) { c.LeaseTTL, c.RenewEvery = 30*time.Second, time.Second })
	r.eventually("16 run and the rest waits", func() bool { l := w.Load(); return l.Running == 16 && l.InHand == jobs })
	// All but five of the fetches are gone: eleven of those that run, and all that wait.
	holder := w.keeper.current().Name()
	require.NoError(t, rewind.Run(r.ctx(), r.client, []string{"queueville:inflight:" + holder, "queue:push", "queueville:batches:" + holder}, behind).Err())
	r.eventually("fetched again under numbers that were given before", func() bool { return r.inFlight() == jobs && len(r.queue("push")) == 0 })
	r.eventually("noticed", func() bool { return f.errors("rewound") > 0 })
	close(release)
	r.eventually("all have failed", func() bool { return len(r.members("retry")) == jobs })
	r.eventually("nothing is left", func() bool { return r.inFlight() == 0 && w.Load().InHand == 0 })
	seen := map[string]bool{}
	for _, m := range r.members("retry") {
		seen[parseEntry(t, m).JID] = true
	}
	require.Len(t, seen, jobs, "an entry for each")
	require.Equal(t, map[int]int{1: jobs - 11, 2: 11}, f.runsOf(), "only what ran at that moment runs twice")
}
