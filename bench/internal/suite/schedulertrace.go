package suite

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/queueville/queueville/internal/governor"
	"github.com/redis/go-redis/v9"
)

const (
	lookEvery   = 250 * time.Millisecond
	mostLooks   = 4000 // of one run: a quarter of an hour
	journalRead = 5000
	userHZ      = 100 // of /proc/stat
)

// sight is one look at a run.
type sight struct {
	at     float64 // seconds since the record began
	done   float64 // jobs that have ended in all
	busy   float64 // cores in use since the last look, by everybody
	stolen float64 // of these, by other machines on the same host
	ours   float64 // cores in use by the contender and its children
	made   int     // jobs that the harness has made in all
	making float64 // processor seconds that this took
}

// record is what was seen of one run.
type record struct {
	began   time.Time
	sights  []sight
	changes []change // of limits, by what the journal says
}

// change is one entry of the journal of limits.
type change struct {
	at    float64 // seconds since the record began
	lane  string
	from  int
	to    int
	why   string
	bound string
	in    governor.Inputs
}

// follow looks at a run until ctx ends. count says how many jobs have ended, and is asked a few times a second.
func (r *record) follow(ctx context.Context, list []*process, yard *yardstick, count func(context.Context) (int64, error)) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	used, stolen := hostCPU()
	own := 0.0
	last := time.Now()
	for range mostLooks {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := alive(list); err != nil {
			return err
		}
		n, err := count(ctx)
		if ctx.Err() != nil {
			return nil // asked to end while asking
		}
		if err != nil {
			return err
		}
		now := time.Now()
		s := sight{at: now.Sub(r.began).Seconds(), done: float64(n)}
		usedNow, stolenNow := hostCPU()
		mine, err := treeCPU(list)
		if err != nil {
			return err
		}
		if dt := now.Sub(last).Seconds(); dt > 0 {
			s.busy, s.stolen = (usedNow-used)/dt, (stolenNow-stolen)/dt
			s.ours = max(0, mine.Seconds()-own) / dt // a child that ended takes its time with it
		}
		s.made, s.making = yard.read()
		used, stolen, own, last = usedNow, stolenNow, mine.Seconds(), now
		r.sights = append(r.sights, s)
	}
	return fmt.Errorf("a run of more than %d looks: %w", mostLooks, errLost)
}

// hostCPU is the processor time in use on this machine since it started, stolen time included, and the stolen time, in core-seconds.
func hostCPU() (used, stolen float64) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line)[1:] {
		n, _ := strconv.ParseFloat(field, 64)
		if i < 8 && i != 3 && i != 4 { // guest time is in user time already; idle and waiting for a disk is not in use
			used += n
		}
		if i == 7 {
			stolen = n
		}
	}
	return used / userHZ, stolen / userHZ
}

// readJournal adds what the worker wrote of its limits.
func (r *record) readJournal(ctx context.Context, client *redis.Client) error {
	list, err := client.XRangeN(ctx, "queueville:scheduler:journal", "-", "+", journalRead).Result()
	if err != nil {
		return fmt.Errorf("read the journal of limits: %w", err)
	}
	for _, m := range list {
		text := func(name string) string { s, _ := m.Values[name].(string); return s }
		at, atErr := strconv.ParseInt(text("at"), 10, 64)
		to, toErr := strconv.Atoi(text("to"))
		if atErr != nil || toErr != nil {
			return fmt.Errorf("the journal of limits has an entry %v: %w", m.Values, errLost)
		}
		from, _ := strconv.Atoi(text("from"))
		c := change{at: float64(at)/1000 - float64(r.began.UnixMilli())/1000, lane: text("lane"), from: from, to: to, why: text("why"), bound: text("bound")}
		_ = json.Unmarshal([]byte(text("inputs")), &c.in) // of an older worker; the limit is what counts
		r.changes = append(r.changes, c)
	}
	return nil
}

func (r *record) end() float64 {
	if len(r.sights) == 0 {
		return 0
	}
	return r.sights[len(r.sights)-1].at
}

// doneAt is how many jobs had ended, between looks in proportion.
func (r *record) doneAt(at float64) float64 {
	i, _ := slices.BinarySearchFunc(r.sights, at, func(s sight, at float64) int {
		if s.at < at {
			return -1
		}
		return 1
	})
	switch {
	case len(r.sights) == 0:
		return 0
	case i == 0:
		return r.sights[0].done
	case i == len(r.sights):
		return r.sights[i-1].done
	}
	a, b := r.sights[i-1], r.sights[i]
	return a.done + (b.done-a.done)*(at-a.at)/max(b.at-a.at, 1e-9)
}

// rate is the throughput between two moments, in jobs a second.
func (r *record) rate(from, to float64) float64 {
	to = min(to, r.end())
	if to <= from {
		return 0
	}
	return (r.doneAt(to) - r.doneAt(from)) / (to - from)
}

// yard is what making one job took between two moments, in processor seconds; 0 if none was made.
func (r *record) yard(from, to float64) float64 {
	var first, last *sight
	for i := range r.sights {
		if s := &r.sights[i]; s.at > from && s.at <= to {
			if first == nil {
				first = s
			}
			last = s
		}
	}
	if first == nil || last.made == first.made {
		return 0
	}
	return (last.making - first.making) / float64(last.made-first.made)
}

// mean is the mean of a figure between two moments.
func (r *record) mean(from, to float64, value func(*sight) float64) float64 {
	sum, n := 0.0, 0
	for i := range r.sights {
		if s := &r.sights[i]; s.at > from && s.at <= to {
			sum += value(s)
			n++
		}
	}
	return sum / float64(max(n, 1))
}

const (
	settledShare = 0.9 // of the steady throughput: within 10 %
	settledSpan  = 2.0 // seconds over which it has to be reached on average
)

// settled is how many seconds after from the throughput has come within 10 % of the given one, which it did at the latest when until is
// reached: the first moment from which the mean of two seconds is.
func (r *record) settled(from, until, steady float64) float64 {
	for at := from; at+settledSpan <= until; at += 0.1 {
		if r.rate(at, at+settledSpan) >= settledShare*steady {
			return at - from
		}
	}
	return until - from
}

// lanes are the lanes that the journal speaks of, in the order of their first entry.
func (r *record) lanes() []string {
	var names []string
	for _, c := range r.changes {
		if !slices.Contains(names, c.lane) {
			names = append(names, c.lane)
		}
	}
	return names
}

// limit is the mean of a lane's limit between two moments and its coefficient of variation, by time; 0 if it had none.
func (r *record) limit(lane string, from, to float64) (mean, variation float64) {
	var sum, squares, span float64
	level, since := 0.0, from
	pass := func(at float64) {
		if d := at - since; d > 0 && level > 0 {
			sum, squares, span = sum+d*level, squares+d*level*level, span+d
		}
		since = max(since, at)
	}
	for _, c := range r.changes {
		if c.lane == lane {
			pass(min(c.at, to))
			level = float64(c.to)
		}
	}
	pass(to)
	if span == 0 {
		return 0, 0
	}
	mean = sum / span
	return mean, math.Sqrt(max(0, squares/span-mean*mean)) / mean
}

// reasons counts why a lane's limit was changed between two moments, the most frequent first.
func (r *record) reasons(lane string, from, to float64) string {
	counts := map[string]int{}
	for _, c := range r.changes {
		if c.lane == lane && c.at >= from && c.at < to {
			counts[c.why]++
		}
	}
	names := make([]string, 0, len(counts))
	for name := range counts {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if counts[a] != counts[b] {
			return counts[b] - counts[a]
		}
		return strings.Compare(a, b)
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%s ×%d", name, counts[name])
	}
	return strings.Join(names, ", ")
}

// write writes all that was seen as text, for whoever wants to know why a limit moved.
func (r *record) write(dir, name string) error {
	if dir == "" {
		return nil
	}
	var b strings.Builder
	next := 0
	for _, s := range r.sights {
		for ; next < len(r.changes) && r.changes[next].at <= s.at; next++ {
			c := &r.changes[next]
			in, _ := json.Marshal(c.in)
			fmt.Fprintf(&b, "%7.2f  %-8s %4d → %-4d %-28s bound %-18s %s\n", c.at, c.lane, c.from, c.to, c.why, c.bound, in)
		}
		fmt.Fprintf(&b, "%7.2f  done %6.0f (%6.1f/s)  cores %.2f, ours %.2f, stolen %.2f, yard %.1f µs\n", s.at, s.done, r.rate(s.at-smooth, s.at), s.busy, s.ours, s.stolen, 1e6*r.yard(s.at-smooth, s.at))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // for everybody
		return fmt.Errorf("make %s: %w", dir, err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".txt"), []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write what was seen: %w", err)
	}
	return nil
}
