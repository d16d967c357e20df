package workmetrics

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/worker"
)

// scrapeTimeout bounds what a scrape may ask of Redis.
const scrapeTimeout = 3 * time.Second

// defaultTopK is how many destinations are shown.
const defaultTopK = 20

// snapshot reads, at each scrape, what is a state and not a count: queues and sets in Redis, this worker's load, its destinations.
type snapshot struct {
	cfg Config

	backlog, latency                                                             *prometheus.Desc
	processed, failed, enqueued, scheduled, retry, dead, processes, workers      *prometheus.Desc
	busy, concurrency                                                            *prometheus.Desc
	inHand, waiting, running, limit                                              *prometheus.Desc
	destInFlight, destLimit, destFailures, destUp, outage, build, redisReachable *prometheus.Desc
}

func newSnapshot(cfg Config) *snapshot {
	if cfg.TopK == 0 {
		cfg.TopK = defaultTopK
	}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	p := cfg.Prefix
	return &snapshot{
		cfg:            cfg,
		backlog:        desc(p+"sidekiq_queue_backlog", "Jobs waiting in a queue.", "queue"),
		latency:        desc(p+"sidekiq_queue_latency_seconds", "How long the oldest job in a queue has waited.", "queue"),
		processed:      desc(p+"sidekiq_stats_processed", "Jobs processed by all processes."),
		failed:         desc(p+"sidekiq_stats_failed", "Jobs failed in all processes."),
		enqueued:       desc(p+"sidekiq_stats_enqueued", "Jobs waiting in all queues."),
		scheduled:      desc(p+"sidekiq_stats_scheduled_size", "Size of the schedule set."),
		retry:          desc(p+"sidekiq_stats_retry_size", "Size of the retry set."),
		dead:           desc(p+"sidekiq_stats_dead_size", "Size of the dead set."),
		processes:      desc(p+"sidekiq_stats_processes_size", "Processes, ours and Ruby's."),
		workers:        desc(p+"sidekiq_stats_workers_size", "Jobs running in all processes."),
		busy:           desc(p+"sidekiq_process_busy", "Jobs running in this process."),
		concurrency:    desc(p+"sidekiq_process_concurrency", "The stated concurrency of this process."),
		inHand:         desc("queueville_in_hand", "Jobs fetched and not finished."),
		waiting:        desc("queueville_waiting", "Jobs fetched and not started."),
		running:        desc("queueville_running", "Jobs running."),
		limit:          desc("queueville_concurrency_limit", "Jobs that may run at once."),
		destInFlight:   desc("queueville_destination_in_flight", "Requests in flight to a destination (top few).", "host"),
		destLimit:      desc("queueville_destination_limit", "Requests allowed at once to a destination (top few).", "host"),
		destFailures:   desc("queueville_destination_failures", "Consecutive failures of a destination (top few).", "host"),
		destUp:         desc("queueville_destination_up", "1 when a destination is not held back (top few).", "host"),
		outage:         desc("queueville_local_outage", "1 when most destinations fail at once: it is us, nothing is held against them."),
		build:          desc("queueville_build_info", "Always 1.", "version", "signer"),
		redisReachable: desc("queueville_redis_up", "1 when Redis answered this scrape."),
	}
}

// Describe implements prometheus.Collector. It names what there is without collecting: when metrics are registered the worker that Load
// asks is not made yet.
func (s *snapshot) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		s.backlog, s.latency, s.processed, s.failed, s.enqueued, s.scheduled, s.retry, s.dead, s.processes, s.workers, s.busy, s.concurrency,
		s.inHand, s.waiting, s.running, s.limit, s.destInFlight, s.destLimit, s.destFailures, s.destUp, s.outage, s.build, s.redisReachable,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. What Redis does not answer is left out and queueville_redis_up says so.
func (s *snapshot) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		if metric, err := prometheus.NewConstMetric(d, prometheus.GaugeValue, v, labels...); err == nil {
			ch <- metric
		}
	}
	gauge(s.build, 1, s.cfg.Version, s.cfg.Signer)
	var load worker.Load
	if s.cfg.Load != nil {
		load = s.cfg.Load()
	}
	gauge(s.busy, float64(load.Running))
	gauge(s.concurrency, float64(s.cfg.Stated))
	gauge(s.inHand, float64(load.InHand))
	gauge(s.waiting, float64(load.Waiting))
	gauge(s.running, float64(load.Running))
	gauge(s.limit, float64(load.Concurrency))
	if s.cfg.Outage != nil {
		us, _, _ := s.cfg.Outage()
		gauge(s.outage, oneIf(us))
	}
	s.collectHosts(gauge)
	gauge(s.redisReachable, oneIf(s.collectRedis(gauge)))
}

type gaugeFunc func(d *prometheus.Desc, v float64, labels ...string)

func (s *snapshot) collectHosts(gauge gaugeFunc) {
	if s.cfg.Hosts == nil {
		return
	}
	now := time.Now()
	seen := map[string]bool{}
	for _, h := range s.cfg.Hosts.Snapshot(time.Now(), s.cfg.TopK) {
		host := labelValue(h.Host)
		if seen[host] { // a page with one sample twice would be refused as a whole
			continue
		}
		seen[host] = true
		gauge(s.destInFlight, float64(h.InFlight), host)
		gauge(s.destLimit, float64(h.Limit), host)
		gauge(s.destFailures, float64(h.Failures), host)
		gauge(s.destUp, oneIf(!h.HeldUntil.After(now)), host)
	}
}

func (s *snapshot) collectRedis(gauge gaugeFunc) bool {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	states, err := s.cfg.Store.Queues(ctx, time.Now())
	if err != nil {
		return false
	}
	totals, err := s.cfg.Store.Totals(ctx)
	if err != nil {
		return false
	}
	processes, err := s.cfg.Store.Processes(ctx)
	if err != nil {
		return false
	}
	slices.SortFunc(states, func(a, b queues.QueueState) int {
		return cmp.Or(cmp.Compare(b.Backlog, a.Backlog), cmp.Compare(a.Name, b.Name))
	})
	seen := map[string]bool{}
	for _, q := range states {
		name := labelValue(q.Name)
		if seen[name] || len(seen) == maxQueues {
			continue
		}
		seen[name] = true
		gauge(s.backlog, float64(q.Backlog), name)
		gauge(s.latency, q.Latency, name)
	}
	busy := 0
	for i := range processes {
		busy += processes[i].Busy
	}
	gauge(s.processed, float64(totals.Processed))
	gauge(s.failed, float64(totals.Failed))
	gauge(s.enqueued, float64(totals.Enqueued))
	gauge(s.scheduled, float64(totals.Scheduled))
	gauge(s.retry, float64(totals.Retries))
	gauge(s.dead, float64(totals.Dead))
	gauge(s.processes, float64(totals.Processes))
	gauge(s.workers, float64(busy))
	return true
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
