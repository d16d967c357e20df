package measure

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Redis is what a Redis server has done since its start.
type Redis struct {
	CPU   time.Duration    // user and system time of its process
	Calls map[string]int64 // commands carried out by name, those that scripts call included
	In    int64            // bytes received
	Out   int64            // bytes sent
}

// ReadRedis asks a server. It costs two commands itself, which are counted by later readings.
func ReadRedis(ctx context.Context, c redis.UniversalClient) (Redis, error) {
	r := Redis{Calls: map[string]int64{}}
	for _, section := range []string{"cpu", "stats", "commandstats"} {
		text, err := c.Info(ctx, section).Result()
		if err != nil {
			return r, fmt.Errorf("ask redis for its %s: %w", section, err)
		}
		for line := range strings.Lines(text) {
			r.read(strings.TrimSpace(line))
		}
	}
	return r, nil
}

func (r *Redis) read(line string) {
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		return
	}
	switch {
	case name == "used_cpu_user" || name == "used_cpu_sys":
		seconds, _ := strconv.ParseFloat(value, 64)
		r.CPU += time.Duration(seconds * float64(time.Second))
	case name == "total_net_input_bytes":
		r.In, _ = strconv.ParseInt(value, 10, 64)
	case name == "total_net_output_bytes":
		r.Out, _ = strconv.ParseInt(value, 10, 64)
	case strings.HasPrefix(name, "cmdstat_"):
		calls, _, _ := strings.Cut(strings.TrimPrefix(value, "calls="), ",")
		n, _ := strconv.ParseInt(calls, 10, 64)
		r.Calls[strings.TrimPrefix(name, "cmdstat_")] += n
	}
}

// Since is what happened between an earlier reading and this one.
func (r *Redis) Since(before Redis) Redis {
	d := Redis{CPU: r.CPU - before.CPU, In: r.In - before.In, Out: r.Out - before.Out, Calls: map[string]int64{}}
	for name, n := range r.Calls {
		if n -= before.Calls[name]; n > 0 {
			d.Calls[name] = n
		}
	}
	return d
}

// RoundTrips is how many times a client waited for an answer, as far as the server can tell: calls of scripts, transactions and
// blocking commands, and every other command that none of the scripts calls. Commands in inner are those that scripts call: they cost no
// round trip, but a client that sends them too (in a heartbeat, say) is counted too low by as much.
func (r *Redis) RoundTrips(inner ...string) int64 {
	var n int64
	skip := map[string]bool{"info": true, "multi": true, "llen": true, "hlen": true, "keys": true} // ours, or queued with exec
	for _, name := range inner {
		skip[name] = true
	}
	for name, calls := range r.Calls {
		if !skip[name] {
			n += calls
		}
	}
	return n
}
