package demo

import (
	"slices"
	"time"

	"github.com/queueville/queueville/loadtest/fediverse"
)

// Summary is the result of a demo; with --json it is the one object on standard output. Every job is counted once, by where it was when
// the worker had stopped: Jobs = Delivered + Retrying + Held + GivenUp + Unavailable + Waiting + Lost.
type Summary struct {
	Clean       bool   `json:"clean"`       // nothing lost, no bad signature, every job tried: exit status 0
	Interrupted bool   `json:"interrupted"` // ended before its time: the counts are true, but of a part
	Seed        uint64 `json:"seed"`

	Jobs        int `json:"jobs"`
	Delivered   int `json:"delivered"`   // a receiver answered 2xx, and Redis has the job no more
	Retrying    int `json:"retrying"`    // tried, failed, waiting in the retry set
	Held        int `json:"held"`        // not tried: host down or busy; waiting in the schedule or retry set
	GivenUp     int `json:"given_up"`    // ended by an answer that will not change (4xx, 501), or dead
	Unavailable int `json:"unavailable"` // ended untried: the host is in unavailable_domains
	Waiting     int `json:"waiting"`     // back in its queue: had an outcome, was due again when the worker stopped
	Untried     int `json:"untried"`     // without any outcome when time was up; among Waiting or Lost
	Lost        int `json:"lost"`        // nowhere

	LostJIDs    []string `json:"lost_jids"`    // ids of lost jobs, at most 1,000
	DoubledJIDs []string `json:"doubled_jids"` // ids of jobs that are in two places in Redis, at most 1,000

	Requests      uint64 `json:"requests"`       // that reached a receiver
	Duplicates    uint64 `json:"duplicates"`     // deliveries accepted again by a receiver that had them
	BadSignatures uint64 `json:"bad_signatures"` // requests whose signature was wrong or absent
	BadDigests    uint64 `json:"bad_digests"`    // requests whose digest was wrong or absent
	SecondKnocks  uint64 `json:"second_knocks"`  // refused by a host that wants the other kind of signature
	HTTP2Requests uint64 `json:"http2_requests"`
	Connections   uint64 `json:"connections"` // that receivers accepted

	SetupSeconds   float64 `json:"setup_seconds"`   // from the start to the worker's start, enqueueing included
	DeliverSeconds float64 `json:"deliver_seconds"` // from the worker's start to the last first outcome
	TotalSeconds   float64 `json:"total_seconds"`   // all of it, stopping included, cleaning up not
	// DeliveriesPerSecond is 99 % of the deliveries over the time by which they had been accepted: the last few wait for slow hosts.
	DeliveriesPerSecond float64 `json:"deliveries_per_second"`

	// From the push of a job to its first outcome, whatever that was. Jobs wait for each other: all are enqueued before the worker starts.
	FirstOutcomeP50Ms float64 `json:"first_outcome_p50_ms"`
	FirstOutcomeP99Ms float64 `json:"first_outcome_p99_ms"`
	// One request: as the worker measured it, connecting included, or, when it does not say, from its arrival at a receiver to the answer.
	RequestP50Ms      float64 `json:"request_p50_ms"`
	RequestP99Ms      float64 `json:"request_p99_ms"`
	RequestMeasuredBy string  `json:"request_measured_by"` // "worker" or "receivers"

	Signer       string `json:"signer"`
	RedisVersion string `json:"redis_version"`

	Classes []ClassSummary `json:"classes"` // in the order of the configuration
	Worker  WorkerCounts   `json:"worker"`  // what the worker counted, first and later tries together
	Dir     string         `json:"dir"`     // where the worker's log is, "" when it was removed
}

// ClassSummary is one kind of host.
type ClassSummary struct {
	Name         string  `json:"name"`
	About        string  `json:"about"`
	Hosts        int     `json:"hosts"`
	Jobs         int     `json:"jobs"`
	Delivered    int     `json:"delivered"`
	Retrying     int     `json:"retrying"`
	Held         int     `json:"held"`
	GivenUp      int     `json:"given_up"`
	Unavailable  int     `json:"unavailable"`
	Waiting      int     `json:"waiting"`
	Lost         int     `json:"lost"`
	Requests     uint64  `json:"requests"`       // that reached a receiver of the class
	MedianMs     float64 `json:"median_ms"`      // of its requests, from arrival to answer; 0 without requests
	PeakInFlight int64   `json:"peak_in_flight"` // most requests that one host had at a time
}

// WorkerCounts are the worker's own counters.
type WorkerCounts struct {
	Delivered   uint64 `json:"delivered"`
	Retrying    uint64 `json:"retrying"`
	Held        uint64 `json:"held"`
	GivenUp     uint64 `json:"given_up"`
	Unavailable uint64 `json:"unavailable"`
}

// moments are the times that a run is measured by.
type moments struct {
	started, workerStarted, stopped time.Time
}

// summarise puts the summary together from the census, the receivers' books and the worker's counters.
func summarise(t *tracker, result []fate, doubled []string, stats *WorkerStats, at moments) *Summary {
	s := &Summary{Jobs: len(result), LostJIDs: []string{}, DoubledJIDs: append([]string{}, doubled...), Signer: stats.Signer}
	s.Worker = WorkerCounts{
		Delivered: stats.Delivered, Retrying: stats.Retrying, Held: stats.Held, GivenUp: stats.GivenUp, Unavailable: stats.Unavailable,
	}
	s.countFates(t, result)
	s.countRequests(t.site.fedi, stats)
	s.measure(t, result, at)
	for i := range t.pending {
		if result[i] == waiting || result[i] == lost {
			s.Untried++
		}
	}
	s.Clean = s.Lost == 0 && len(s.DoubledJIDs) == 0 && s.BadSignatures+s.BadDigests == 0 && s.Untried == 0

	return s
}

// countFates fills in the counts of all jobs and of each class.
func (s *Summary) countFates(t *tracker, result []fate) {
	world := t.site.world
	index := make(map[string]int, len(world.Classes))
	for i := range world.Classes {
		index[world.Classes[i].Name] = i
		s.Classes = append(s.Classes, ClassSummary{Name: world.Classes[i].Name, About: world.Classes[i].About})
	}
	for i := range world.Hosts {
		s.Classes[index[world.Hosts[i].Class]].Hosts++
	}
	for i, f := range result {
		class := &s.Classes[index[world.Hosts[t.jobs[i].host].Class]]
		class.Jobs++
		all, one := [fates]*int{
			&s.Lost, &s.Delivered, &s.Retrying, &s.Held, &s.GivenUp, &s.Unavailable, &s.Waiting,
		}, [fates]*int{
			&class.Lost, &class.Delivered, &class.Retrying, &class.Held, &class.GivenUp, &class.Unavailable, &class.Waiting,
		}
		*all[f]++
		*one[f]++
		if f == lost && len(s.LostJIDs) < maxLostJIDs {
			s.LostJIDs = append(s.LostJIDs, t.site.jobs[i].JID)
		}
	}
	counts := t.site.fedi.ClassCounts()
	for i := range s.Classes {
		c := counts[s.Classes[i].Name]
		s.Classes[i].Requests = c.Requests
		s.Classes[i].MedianMs = milliseconds(c.Latencies.Quantile(0.5))
		s.Classes[i].PeakInFlight = c.PeakInFlight
	}
}

// countRequests fills in what the receivers saw.
func (s *Summary) countRequests(fedi *fediverse.Fediverse, stats *WorkerStats) {
	total := fedi.Total()
	s.Requests, s.Duplicates = total.Requests, total.Duplicates
	s.BadSignatures, s.BadDigests = total.BadSignatures+total.Unsigned, total.BadDigests
	s.SecondKnocks, s.HTTP2Requests, s.Connections = total.SecondKnocks, total.HTTP2, total.Connections
	s.RequestMeasuredBy = "receivers"
	s.RequestP50Ms, s.RequestP99Ms = milliseconds(total.Latencies.Quantile(0.5)), milliseconds(total.Latencies.Quantile(0.99))
	if stats.RequestP50 > 0 {
		s.RequestMeasuredBy = "worker"
		s.RequestP50Ms, s.RequestP99Ms = milliseconds(stats.RequestP50), milliseconds(stats.RequestP99)
	}
}

// measure fills in the times.
func (s *Summary) measure(t *tracker, result []fate, at moments) {
	s.SetupSeconds = at.workerStarted.Sub(at.started).Seconds()
	last := at.workerStarted
	s.TotalSeconds = at.stopped.Sub(at.started).Seconds()
	var waits, accepted []time.Duration
	for i := range t.jobs {
		if job := &t.jobs[i]; !job.first.IsZero() {
			last = laterOf(last, job.first)
			waits = append(waits, max(job.first.Sub(job.enqueued), 0))
			if result[i] == delivered {
				accepted = append(accepted, job.first.Sub(at.workerStarted))
			}
		}
	}
	s.DeliverSeconds = last.Sub(at.workerStarted).Seconds()
	s.FirstOutcomeP50Ms, s.FirstOutcomeP99Ms = milliseconds(quantile(waits, 0.5)), milliseconds(quantile(waits, 0.99))
	if by := quantile(accepted, 0.99); by > 0 {
		s.DeliveriesPerSecond = 0.99 * float64(len(accepted)) / by.Seconds()
	}
}

func laterOf(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}

	return a
}

// quantile sorts list and returns the value that a share q does not exceed; 0 for none.
func quantile(list []time.Duration, q float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)

	return list[int(q*float64(len(list)-1))]
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
