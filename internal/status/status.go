// Package status is what `queueville status` shows: queues, sets and every process on one Redis, ours and Ruby's, read once.
package status

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/queueville/queueville/queues"
)

// Status is one look at a Redis.
type Status struct {
	At        time.Time `json:"at"`
	Queues    []Queue   `json:"queues"`
	Sets      Sets      `json:"sets"`
	Processes []Process `json:"processes"`
	Orphans   []Orphan  `json:"orphans,omitempty"` // dead workers that still hold jobs
	Notes     []string  `json:"notes,omitempty"`   // what a person should know about this picture
}

// Queue is one queue. LatencySeconds is how long its oldest job has waited, as Sidekiq defines it.
type Queue struct {
	Name           string   `json:"name"`
	Backlog        int64    `json:"backlog"`
	LatencySeconds float64  `json:"latency_seconds"`
	Paused         bool     `json:"paused,omitempty"`
	Owned          []string `json:"owned_by,omitempty"`  // identities of workers that own it
	Shared         []string `json:"shared_by,omitempty"` // identities of workers that share it
	Ruby           int      `json:"ruby_processes"`      // Ruby processes that serve it
}

// Sets are the sizes of Sidekiq's sets and its counters.
type Sets struct {
	Scheduled int64 `json:"scheduled"`
	Retries   int64 `json:"retries"`
	Dead      int64 `json:"dead"`
	Processed int64 `json:"processed"`
	Failed    int64 `json:"failed"`
}

// Process is one process. Worker is there for ours.
type Process struct {
	Identity    string   `json:"identity"`
	Hostname    string   `json:"hostname"`
	PID         int      `json:"pid"`
	Tag         string   `json:"tag,omitempty"`
	Version     string   `json:"version,omitempty"`
	Queues      []string `json:"queues"`
	Concurrency int      `json:"concurrency"`
	Busy        int      `json:"busy"`
	Quiet       bool     `json:"quiet,omitempty"`
	BeatAge     float64  `json:"beat_age_seconds"`
	RSSKB       int64    `json:"rss_kb"`
	Worker      *Worker  `json:"worker,omitempty"`
}

// Worker is what one of our workers publishes of itself with every heartbeat.
type Worker struct {
	Owned       []string `json:"owned"`
	Shared      []string `json:"shared"`
	ForeignTo   string   `json:"foreign_to,omitempty"`
	Share       int      `json:"share_of_10000"`
	InHand      int      `json:"in_hand"`
	Waiting     int      `json:"waiting"`
	Running     int      `json:"running"`
	Concurrency int      `json:"concurrency_limit"`
	Signer      string   `json:"signer"`
	HostsDown   int      `json:"hosts_down"`
	Outage      string   `json:"local_outage,omitempty"` // why, when most destinations fail at once
}

// Orphan is a dead worker that holds jobs; a live worker or `queueville release` gives them back.
type Orphan struct {
	Holder string `json:"holder"`
	Jobs   int    `json:"jobs"`
}

// Read takes one look. ctx bounds it.
func Read(ctx context.Context, store *queues.Store) (*Status, error) {
	now := time.Now()
	s := &Status{At: now.UTC()}
	states, err := store.Queues(ctx, now)
	if err != nil {
		return nil, err
	}
	totals, err := store.Totals(ctx)
	if err != nil {
		return nil, err
	}
	processes, err := store.Processes(ctx)
	if err != nil {
		return nil, err
	}
	holders, err := store.Holders(ctx)
	if err != nil {
		return nil, err
	}
	s.Sets = Sets{Scheduled: totals.Scheduled, Retries: totals.Retries, Dead: totals.Dead, Processed: totals.Processed, Failed: totals.Failed}
	if err := s.addProcesses(ctx, store, processes, now); err != nil {
		return nil, err
	}
	for _, h := range holders {
		if !h.Alive && h.InFlight > 0 {
			s.Orphans = append(s.Orphans, Orphan{h.Name, h.InFlight})
		}
	}
	s.addQueues(states)
	s.addNotes()
	return s, nil
}

func (s *Status) addProcesses(ctx context.Context, store *queues.Store, list []queues.ProcessState, now time.Time) error {
	ids := make([]string, len(list))
	for i := range list {
		ids[i] = list[i].Identity
	}
	published, err := store.WorkerStates(ctx, ids)
	if err != nil {
		return err
	}
	for i := range list {
		p := &list[i]
		out := Process{
			Identity: p.Identity, Hostname: p.Hostname, PID: p.PID, Tag: p.Tag, Version: p.Version, Queues: p.Queues,
			Concurrency: p.Concurrency, Busy: p.Busy, Quiet: p.Quiet, RSSKB: p.RSSKB,
		}
		if !p.Beat.IsZero() {
			out.BeatAge = max(0, now.Sub(p.Beat).Seconds())
		}
		if data, ok := published[p.Identity]; ok {
			w := &Worker{}
			if json.Unmarshal(data, w) == nil {
				out.Worker = w
			}
		}
		s.Processes = append(s.Processes, out)
	}
	slices.SortFunc(s.Processes, func(a, b Process) int { return cmp.Compare(a.Identity, b.Identity) })
	return nil
}

func (s *Status) addQueues(states []queues.QueueState) {
	for _, q := range states {
		out := Queue{Name: q.Name, Backlog: q.Backlog, LatencySeconds: q.Latency, Paused: q.Paused}
		for i := range s.Processes {
			p := &s.Processes[i]
			switch {
			case p.Worker == nil:
				if slices.Contains(p.Queues, q.Name) {
					out.Ruby++
				}
			case slices.Contains(p.Worker.Owned, q.Name):
				out.Owned = append(out.Owned, p.Identity)
			case slices.Contains(p.Worker.Shared, q.Name):
				out.Shared = append(out.Shared, p.Identity)
			}
		}
		s.Queues = append(s.Queues, out)
	}
	slices.SortFunc(s.Queues, func(a, b Queue) int { return cmp.Compare(a.Name, b.Name) })
}

// addNotes says what the numbers alone do not.
func (s *Status) addNotes() {
	for _, q := range s.Queues {
		if q.Backlog > 0 && q.Ruby == 0 && len(q.Owned) == 0 && !q.Paused {
			s.Notes = append(s.Notes, "queue "+q.Name+" has jobs and nobody serves all of it")
		}
		if len(q.Shared) > 0 && q.Ruby > 0 && q.Backlog == 0 {
			s.Notes = append(s.Notes, "queue "+q.Name+" is shared with Ruby that keeps up: idle Ruby threads get new jobs first, so the sidecar takes little. --own changes that")
		}
		if q.Paused {
			s.Notes = append(s.Notes, "queue "+q.Name+" is paused")
		}
	}
	for i := range s.Processes {
		w := s.Processes[i].Worker
		if w == nil {
			continue
		}
		if w.Outage != "" {
			s.Notes = append(s.Notes, s.Processes[i].Identity+": most destinations fail at once, probably our own network: "+w.Outage)
		}
		if w.ForeignTo != "" && !s.rubyServes(w.ForeignTo) {
			s.Notes = append(s.Notes, "no Ruby process serves "+w.ForeignTo+", where "+s.Processes[i].Identity+" moves what only Ruby can run")
		}
	}
	for _, o := range s.Orphans {
		s.Notes = append(s.Notes, "a dead worker still holds jobs: "+o.Holder+"; a live worker gives them back within a minute, or run queueville release")
	}
}

func (s *Status) rubyServes(queue string) bool {
	for i := range s.Processes {
		if s.Processes[i].Worker == nil && slices.Contains(s.Processes[i].Queues, queue) {
			return true
		}
	}
	return false
}
