package simulate

import (
	"time"

	"github.com/queueville/queueville/loadtest/world"
)

// Result is what came of a run. Every name carries its unit where there is one.
type Result struct {
	Engine  EngineName `json:"engine"`
	Seconds float64    `json:"seconds"` // of virtual time
	Partial bool       `json:"partial"` // ended before its time: what is here is true for the part

	Jobs Jobs `json:"jobs"`

	Queues     []QueueResult    `json:"queues"`
	Classes    []ClassResult    `json:"classes"`
	Deliveries DeliveryResult   `json:"deliveries"`
	Recoveries []RecoveryResult `json:"recoveries,omitempty"`
	Use        Use              `json:"use"`
	Series     Series           `json:"series"`

	LastEndSeconds float64 `json:"-"` // when the last job was done; 0 for real runs, whose report has it elsewhere
	Queries        int     `json:"-"` // of jobs to PostgreSQL
}

// Jobs says what became of every job: Pushed = Done + Dead + Discarded + Lost + Dropped + Waiting + Running + Again.
type Jobs struct {
	Pushed    int `json:"pushed"`    // first pushes
	Done      int `json:"done"`      // ended well, or with a refusal that is final
	Failures  int `json:"failures"`  // runs that raised
	Retried   int `json:"retried"`   // of these, will run again
	Dead      int `json:"dead"`      // of these, went to the dead set
	Discarded int `json:"discarded"` // of these, were the last run of a class without dead set
	Lost      int `json:"lost"`      // in the memory of a process that was killed, or not written while Redis took nothing
	Repeated  int `json:"repeated"`  // were given back and run a second time
	Deferred  int `json:"deferred"`  // times a delivery was put off untried, because its host is down or has as much as it takes
	Refused   int `json:"refused"`   // could not be enqueued: Redis took nothing
	Dropped   int `json:"dropped"`   // by the simulator's bound on jobs in memory
	Waiting   int `json:"waiting"`   // in queues at the end
	Running   int `json:"running"`   // at the end
	InSets    int `json:"in_sets"`   // in retry and schedule at the end, those among them that were never on a queue included
	Again     int `json:"again"`     // in sets at the end, to be run again: failed, or put off untried
}

// GivenUp are the jobs that failed for good.
func (j Jobs) GivenUp() int { return j.Dead + j.Discarded }

// QueueResult is one queue over the whole run.
type QueueResult struct {
	Name         string  `json:"name"`
	GoalSeconds  float64 `json:"goal_seconds"`
	Started      int     `json:"started"`
	WithinGoal   float64 `json:"within_goal"` // share of the jobs that started
	P50Seconds   float64 `json:"p50_seconds"` // of the wait in the queue
	P95Seconds   float64 `json:"p95_seconds"`
	P99Seconds   float64 `json:"p99_seconds"`
	MostSeconds  float64 `json:"most_seconds"`
	MeanSeconds  float64 `json:"mean_seconds"`
	PeakBacklog  int     `json:"peak_backlog"`
	PeakLatency  float64 `json:"peak_latency_seconds"`  // Sidekiq's latency: age of the oldest job in the queue
	BeyondGoal   float64 `json:"beyond_goal_seconds"`   // time in which latency was above the goal
	BreachedBins float64 `json:"goal_missed_share"`     // share of the report's intervals in which the 99th percentile or the latency was above the goal
	Left         int     `json:"left_at_the_end"`       // jobs in the queue at the end
	Throughput   float64 `json:"started_per_second"`    // on average
	Goal99       bool    `json:"ninety_nine_in_a_goal"` // 99 % started within the goal, and the queue is not beyond it at the end
}

// ClassResult is one class over the whole run.
type ClassResult struct {
	Name      string  `json:"name"`
	Variant   string  `json:"variant,omitempty"`
	Queue     string  `json:"queue"`
	Pushed    int     `json:"pushed"`
	Runs      int     `json:"runs"`
	Failed    int     `json:"failed"`
	MeanCPUms float64 `json:"mean_cpu_ms"`
	MeanWait  float64 `json:"mean_wait_seconds"`
}

// DeliveryResult is about posts on their way to other instances.
type DeliveryResult struct {
	Accepted   int     `json:"accepted"`
	P50Seconds float64 `json:"p50_seconds"` // from the first push to acceptance
	P99Seconds float64 `json:"p99_seconds"`
	InTime     float64 `json:"in_time"`  // share of what was due at healthy instances
	Fairness   float64 `json:"fairness"` // Jain's index of that share over the healthy instances: 1 is equal
	Instances  int     `json:"instances"`
	Due        int     `json:"due"` // at healthy instances
}

// RecoveryResult is how long it took after something was over until every queue was within its goal again.
type RecoveryResult struct {
	Name         string   `json:"name"`
	LastsSeconds float64  `json:"lasts_seconds"`
	Backlog      int      `json:"backlog"`       // at its end
	DrainSeconds *float64 `json:"drain_seconds"` // null: not within the run
	CatchUpRatio *float64 `json:"catch_up_ratio"`
}

// Use is what it took.
type Use struct {
	CoreHours       float64 `json:"core_hours"`     // that stood ready
	CPUHours        float64 `json:"cpu_hours"`      // used
	CPUShare        float64 `json:"cpu_share"`      // used of ready
	DatabaseHours   float64 `json:"database_hours"` // of PostgreSQL's processor
	MemoryGiBHours  float64 `json:"memory_gib_hours"`
	PeakMemoryGiB   float64 `json:"peak_memory_gib"`
	PeakRunning     int     `json:"peak_running"`
	PeakConnections int     `json:"peak_connections"`
	PeakBacklog     int     `json:"peak_backlog"`
	PoolWaits       int     `json:"pool_waits"`    // jobs that had to wait for a connection of their process
	PoolTimeouts    int     `json:"pool_timeouts"` // and got none within five seconds
	CPUPerMillion   float64 `json:"cpu_hours_per_million_jobs"`
}

// Series are the curves. All have a point for every entry of Seconds.
type Series struct {
	Seconds     []float64     `json:"seconds"` // end of each interval, of virtual time
	Queues      []QueueSeries `json:"queues"`
	Arrived     []float64     `json:"arrived_per_second"`
	Done        []float64     `json:"done_per_second"`
	Running     []int         `json:"running"`
	CPU         []float64     `json:"cpu_share"`
	Cores       []int         `json:"cores"`
	Database    []float64     `json:"database_share"`
	Connections []int         `json:"connections"`
	Retrying    []int         `json:"retrying"`
	Held        []int         `json:"held"`
	Down        []int         `json:"destinations_held_for_down"`
	Unhealthy   []int         `json:"destinations_down_in_truth"`
	Memory      []float64     `json:"memory_gib"`
}

// QueueSeries are the curves of one queue: greatest backlog and latency in each interval, and the waits of what started in it.
type QueueSeries struct {
	Name    string    `json:"name"`
	Backlog []int     `json:"backlog"`
	Latency []float64 `json:"latency_seconds"`
	P50     []float64 `json:"p50_seconds"`
	P99     []float64 `json:"p99_seconds"`
}

// Backlog is the sum over all queues, at each point.
func (s *Series) Backlog() []int {
	sum := make([]int, len(s.Seconds))
	for _, q := range s.Queues {
		for i, n := range q.Backlog {
			sum[i] += n
		}
	}
	return sum
}

// result closes the books.
func (m *meter) result() *Result {
	s := m.s
	r := &Result{Engine: s.cfg.Engine, Seconds: float64(s.now) / 1e9, Partial: s.stopped && !s.over, Series: m.series, LastEndSeconds: float64(m.lastEnd) / 1e9, Queries: m.queries}
	r.Jobs = Jobs{
		Pushed: m.arrived, Done: m.done, Failures: m.failures, Retried: m.retried, Dead: m.dead, Discarded: m.discarded, Lost: m.lost,
		Repeated: m.repeated, Deferred: m.deferred, Refused: m.refused, Dropped: m.overflow, Running: s.running + s.eng.waiting(),
		InSets: len(s.due), Again: m.again(),
	}
	intervals := float64(max(1, len(m.series.Seconds)))
	for i := range m.queue {
		q := &m.queue[i]
		left := s.queues[i].len() + s.eng.beside(i)
		r.Jobs.Waiting += left
		latency := 0.0
		if s.queues[i].len() > 0 {
			latency = float64(s.now-int64(s.queues[i].peek().Enqueued)) / 1e9
		}
		goal := s.cfg.Goals[i].Seconds()
		out := QueueResult{
			Name: world.QueueNames[i], GoalSeconds: goal, Started: q.started, WithinGoal: 1,
			P50Seconds: round(q.all.quantile(0.5)), P95Seconds: round(q.all.quantile(0.95)), P99Seconds: round(q.all.quantile(0.99)), MostSeconds: round(float64(q.all.most) / 1e9),
			PeakBacklog: q.backlogPeak, PeakLatency: round(q.latencyPeak), BeyondGoal: float64(q.overSeconds), BreachedBins: round(float64(q.breached) / intervals), Left: left,
			Throughput: round(float64(q.started) / r.Seconds),
		}
		if q.started > 0 {
			out.WithinGoal = round(float64(q.within) / float64(q.started))
			out.MeanSeconds = round(q.all.sum / float64(q.started))
		}
		out.Goal99 = goal == 0 || float64(q.within) >= 0.99*float64(q.started) && latency <= goal
		r.Queues = append(r.Queues, out)
	}
	for i := range m.classes {
		c := &m.classes[i]
		if c.pushed+c.runs == 0 {
			continue
		}
		class := &world.ClassTable[i]
		n := float64(max(1, c.runs))
		r.Classes = append(r.Classes, ClassResult{
			Name: class.Name, Variant: class.Variant, Queue: world.QueueNames[class.Queue], Pushed: c.pushed, Runs: c.runs, Failed: c.failed,
			MeanCPUms: round(float64(c.cpu) / 1e6 / n), MeanWait: round(c.wait / n),
		})
	}
	r.Deliveries = m.deliveries()
	for _, rec := range m.recovery {
		out := RecoveryResult{Name: rec.Name, LastsSeconds: rec.For.Seconds(), Backlog: rec.backlog}
		if rec.at >= 0 {
			drain := max(0, (time.Duration(rec.at) - rec.At - rec.For).Seconds())
			ratio := round(drain / max(1, rec.For.Seconds()))
			out.DrainSeconds, out.CatchUpRatio = &drain, &ratio
		}
		r.Recoveries = append(r.Recoveries, out)
	}
	used := float64(m.cpuUsed()) / 3.6e12
	r.Use = Use{
		CoreHours: round(m.coreSeconds / 3600), CPUHours: round(used), DatabaseHours: round(float64(s.db.busy) / 3.6e12),
		MemoryGiBHours: round(m.memorySeconds / 3600), PeakMemoryGiB: round(m.peakMemory), PeakRunning: m.peakRunning, PeakConnections: m.peakConnections,
		PeakBacklog: m.peakBacklog, PoolWaits: m.poolWaits, PoolTimeouts: m.poolTimeouts,
	}
	if m.coreSeconds > 0 {
		r.Use.CPUShare = round(used / (m.coreSeconds / 3600))
	}
	if m.done > 0 {
		r.Use.CPUPerMillion = round(used * 1e6 / float64(m.done))
	}
	return r
}

// again counts the jobs in sets that have been on a queue before.
func (m *meter) again() int {
	n := m.returning
	for i := range m.s.due {
		if d := &m.s.due[i]; d.held || d.job.Retries > 0 {
			n++
		}
	}
	return n
}

// deliveries sums up what the instances got.
func (m *meter) deliveries() DeliveryResult {
	d := DeliveryResult{Accepted: int(m.deliver.total), P50Seconds: round(m.deliver.quantile(0.5)), P99Seconds: round(m.deliver.quantile(0.99))}
	d.Share(m.reached)
	return d
}

// Share sets Instances, Due, InTime and Fairness (Jain's index of the instances' shares) from what each instance was due and got in time.
func (d *DeliveryResult) Share(each []Reached) {
	d.InTime, d.Fairness = 1, 1
	var sum, squares, n, due, in float64
	for _, r := range each {
		if r.Due == 0 {
			continue
		}
		x := min(1, float64(r.InTime)/float64(r.Due))
		sum, squares, n = sum+x, squares+x*x, n+1
		due, in = due+float64(r.Due), in+min(float64(r.InTime), float64(r.Due))
	}
	d.Instances, d.Due = int(n), int(due)
	if due > 0 {
		d.InTime = round(in / due)
	}
	switch {
	case squares > 0:
		d.Fairness = round(sum * sum / (n * squares))
	case n > 0:
		d.Fairness = 0 // nobody got anything in time
	}
}
