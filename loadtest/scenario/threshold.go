package scenario

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/queueville/queueville/loadtest/simulate"
	"github.com/queueville/queueville/loadtest/world"
)

// Threshold is a condition on a result: "push.p99 <= 10s".
type Threshold struct {
	Text   string
	Metric string
	Op     string
	Value  float64 // times in seconds
}

var thresholdForm = regexp.MustCompile(`^([a-z0-9_.]+)\s*(<=|>=|==|<|>)\s*(\S+)$`)

// metrics are what thresholds may name. Times are in seconds, shares 0 to 1.
var metrics = func() map[string]func(*simulate.Result) float64 {
	m := map[string]func(*simulate.Result) float64{
		"jobs.lost":             func(r *simulate.Result) float64 { return float64(r.Jobs.Lost) },
		"jobs.dropped":          func(r *simulate.Result) float64 { return float64(r.Jobs.Dropped) },
		"jobs.refused":          func(r *simulate.Result) float64 { return float64(r.Jobs.Refused) },
		"jobs.waiting":          func(r *simulate.Result) float64 { return float64(r.Jobs.Waiting) },
		"jobs.dead":             func(r *simulate.Result) float64 { return float64(r.Jobs.Dead) },
		"jobs.failures":         func(r *simulate.Result) float64 { return float64(r.Jobs.Failures) },
		"deliveries.in_time":    func(r *simulate.Result) float64 { return r.Deliveries.InTime },
		"deliveries.fairness":   func(r *simulate.Result) float64 { return r.Deliveries.Fairness },
		"deliveries.p50":        func(r *simulate.Result) float64 { return r.Deliveries.P50Seconds },
		"deliveries.p99":        func(r *simulate.Result) float64 { return r.Deliveries.P99Seconds },
		"use.peak_connections":  func(r *simulate.Result) float64 { return float64(r.Use.PeakConnections) },
		"use.peak_backlog":      func(r *simulate.Result) float64 { return float64(r.Use.PeakBacklog) },
		"use.peak_memory_gib":   func(r *simulate.Result) float64 { return r.Use.PeakMemoryGiB },
		"use.cpu_share":         func(r *simulate.Result) float64 { return r.Use.CPUShare },
		"use.pool_timeouts":     func(r *simulate.Result) float64 { return float64(r.Use.PoolTimeouts) },
		"recovery.worst_ratio":  worstRatio,
		"goals.missed_longest":  func(r *simulate.Result) float64 { return longest(r) },
		"goals.worst_share_met": worstShare,
	}
	for i, name := range world.QueueNames {
		of := func(f func(*simulate.QueueResult) float64) func(*simulate.Result) float64 {
			return func(r *simulate.Result) float64 { return f(&r.Queues[i]) }
		}
		m[name+".p50"] = of(func(q *simulate.QueueResult) float64 { return q.P50Seconds })
		m[name+".p95"] = of(func(q *simulate.QueueResult) float64 { return q.P95Seconds })
		m[name+".p99"] = of(func(q *simulate.QueueResult) float64 { return q.P99Seconds })
		m[name+".within_goal"] = of(func(q *simulate.QueueResult) float64 { return q.WithinGoal })
		m[name+".peak_latency"] = of(func(q *simulate.QueueResult) float64 { return q.PeakLatency })
		m[name+".peak_backlog"] = of(func(q *simulate.QueueResult) float64 { return float64(q.PeakBacklog) })
		m[name+".left"] = of(func(q *simulate.QueueResult) float64 { return float64(q.Left) })
	}
	return m
}()

// worstRatio is the greatest catch-up ratio; infinite when something has not been recovered from.
func worstRatio(r *simulate.Result) float64 {
	worst := 0.0
	for _, rec := range r.Recoveries {
		if rec.CatchUpRatio == nil {
			return math.Inf(1)
		}
		worst = max(worst, *rec.CatchUpRatio)
	}
	return worst
}

// longest is the longest time that a queue's latency was beyond its goal, summed up.
func longest(r *simulate.Result) float64 {
	most := 0.0
	for i := range r.Queues {
		most = max(most, r.Queues[i].BeyondGoal)
	}
	return most
}

// worstShare is the smallest share of a queue's jobs that started within its goal.
func worstShare(r *simulate.Result) float64 {
	least := 1.0
	for i := range r.Queues {
		least = min(least, r.Queues[i].WithinGoal)
	}
	return least
}

// Metrics are the names that a threshold may use.
func Metrics() []string { return slices.Sorted(maps.Keys(metrics)) }

// ParseThreshold reads "metric op value"; values are numbers, shares ("99%") or times ("5s").
func ParseThreshold(text string) (Threshold, error) {
	m := thresholdForm.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return Threshold{}, fmt.Errorf("%q: write “metric <= value”, as in push.p99 <= 10s", text)
	}
	t := Threshold{Text: text, Metric: m[1], Op: m[2]}
	if metrics[t.Metric] == nil {
		return t, fmt.Errorf("unknown metric %q%s", t.Metric, suggest(t.Metric, Metrics()))
	}
	number, percent := strings.CutSuffix(m[3], "%")
	v, err := strconv.ParseFloat(number, 64)
	if err != nil {
		d, timeErr := time.ParseDuration(m[3])
		if timeErr != nil {
			return t, fmt.Errorf("%q: %q is no number, share or length of time", text, m[3])
		}
		v = d.Seconds()
	}
	if percent {
		v /= 100
	}
	t.Value = v
	return t, nil
}

// Check is how a result stands to a threshold.
type Check struct {
	Text   string  `json:"threshold"`
	Actual float64 `json:"actual"` // −1 where there is none: nothing was recovered from
	Met    bool    `json:"met"`
	// Few: not judged, and counted as met. There were fewer than ten deliveries for an instance, so that one that is late decides.
	Few bool `json:"few,omitempty"`
}

// fairFrom is how many deliveries for an instance, on average, say something about how fairly instances were served.
const fairFrom = 10

// Check compares a result.
func (t Threshold) Check(r *simulate.Result) Check {
	v := metrics[t.Metric](r)
	c := Check{Text: t.Text, Actual: v}
	switch t.Op {
	case "<=":
		c.Met = v <= t.Value
	case ">=":
		c.Met = v >= t.Value
	case "==":
		c.Met = v == t.Value
	case "<":
		c.Met = v < t.Value
	case ">":
		c.Met = v > t.Value
	}
	if math.IsInf(v, 0) {
		c.Actual = -1
	}
	if d := &r.Deliveries; t.Metric == "deliveries.fairness" && d.Due < fairFrom*d.Instances {
		c.Few, c.Met = true, true
	}
	return c
}

// CheckAll compares a result with all thresholds for its engine.
func (s *Scenario) CheckAll(r *simulate.Result) (checks []Check, met bool) {
	met = true
	for _, t := range s.Thresholds[r.Engine] {
		c := t.Check(r)
		checks = append(checks, c)
		met = met && c.Met
	}
	return checks, met
}
