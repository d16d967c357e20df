// Package status is what `queueville status` shows: queues, sets and every process on one Redis, ours and Ruby's, read once.
package status

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
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
	Of             string   `json:"of,omitempty"`        // the queue whose jobs wait here, that have more time than others of it
	Ruby           int      `json:"ruby_processes"`      // Ruby processes that serve it by themselves: those that a worker feeds are not counted
}

// Sets are the sizes of Sidekiq's sets and its counters.
type Sets struct {
	Scheduled int64 `json:"scheduled"`
	Retries   int64 `json:"retries"`
	Dead      int64 `json:"dead"`
	Processed int64 `json:"processed"`
	Failed    int64 `json:"failed"`
}

// Process is one process. Worker is there for ours; FedBy is the identity of the worker that a Ruby process belongs to, "" for one that fetches
// its jobs itself.
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
	FedBy       string   `json:"fed_by,omitempty"`
	Worker      *Worker  `json:"worker,omitempty"`

	young     bool // started a moment ago
	unclaimed bool // young, on a host with a worker in full mode, which may not have said yet that it is its
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
	Ruby        *Ruby    `json:"ruby,omitempty"`         // in full mode
	Database    *Lease   `json:"database,omitempty"`     // its part of the connection budget
	Limits      []Limit  `json:"limits,omitempty"`       // of its lanes, when they are found by trial
	Costs       []Cost   `json:"costs,omitempty"`        // of the classes that take most of its slots' time, first

	Sides        []Side        `json:"side_lists,omitempty"` // beside its owned queues, that it takes jobs from
	Destinations *Destinations `json:"destinations,omitempty"`
	Retries      *Retries      `json:"retries,omitempty"`
}

// Side is a list beside a queue, where jobs wait that have more time than others of it, as a worker last saw it.
type Side struct {
	Name        string  `json:"name"`
	Queue       string  `json:"queue"`
	GoalSeconds float64 `json:"goal_seconds"` // of one behind: after so long it takes its turn like the others
	Behind      bool    `json:"behind,omitempty"`
	Backlog     int     `json:"backlog"`
	AgeSeconds  float64 `json:"age_seconds"` // of its oldest job
}

// Ruby is the Ruby side of a worker in full mode.
type Ruby struct {
	Running   int           `json:"running"`
	Waiting   int           `json:"waiting"` // fetched, and with no process yet
	Threads   int           `json:"threads"` // of the processes that take jobs
	Processes []RubyProcess `json:"processes"`
	Cron      bool          `json:"cron_leader"`         // the cron scheduler runs here
	Problem   string        `json:"problem,omitempty"`   // why no process can be started at present
	Waits     string        `json:"waits_for,omitempty"` // why the next process waits for its database connections
	Held      string        `json:"held,omitempty"`      // why no job starts
}

// RubyProcess is one Ruby process of a worker, as the worker sees it.
type RubyProcess struct {
	PID      int    `json:"pid"`   // 0 until it is known
	State    string `json:"state"` // booting, serving or leaving
	Running  int    `json:"running"`
	PSSBytes int64  `json:"pss_bytes"` // 0 until it was measured
	Cron     bool   `json:"cron,omitempty"`
}

// Lease is a worker's part of the cluster's connection budget, in connections.
type Lease struct {
	Budget     int    `json:"budget"` // of all workers together
	Leased     int    `json:"leased"` // counted for this worker
	Limit      int    `json:"limit"`  // of these, what it may open now
	Open       int    `json:"open"`   // by itself, idle ones included
	InUse      int    `json:"in_use"`
	Ruby       int    `json:"for_ruby,omitempty"` // what its Ruby processes may open
	Waiting    int    `json:"waiting"`            // connections waited for
	Recovering bool   `json:"recovering,omitempty"`
	Pooled     bool   `json:"pooled,omitempty"` // client connections of PgBouncer
	Reason     string `json:"reason,omitempty"` // why there is none, or why something waits
}

// Orphan is a dead worker that holds jobs; a live worker or `queueville release` gives them back.
type Orphan struct {
	Holder string `json:"holder"`
	Jobs   int    `json:"jobs"`
}

const (
	// settled is how long after its start a Ruby process is surely in what its worker publishes every 10 s, and how old the heartbeat of one
	// that has not been killed is at most.
	settled = 15 * time.Second
	// silent is the age of a heartbeat from which on a process has probably been killed: a worker's lease has ended by then, too.
	silent = 30 * time.Second
)

// CronQueue is the queue whose listener runs sidekiq-scheduler.
const CronQueue = "scheduler"

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
		out.young = now.Sub(p.StartedAt) < settled
		if data, ok := published[p.Identity]; ok {
			w := &Worker{}
			if json.Unmarshal(data, w) == nil {
				out.Worker = w
			}
		}
		s.Processes = append(s.Processes, out)
	}
	slices.SortFunc(s.Processes, func(a, b Process) int { return cmp.Compare(a.Identity, b.Identity) })
	s.findFed()
	return nil
}

// findFed joins the Ruby processes that appear in Sidekiq's list to the workers that say they are theirs.
func (s *Status) findFed() {
	type place struct {
		hostname string
		pid      int
	}
	feeders, full := map[place]string{}, map[string]bool{}
	for i := range s.Processes {
		p := &s.Processes[i]
		if p.Worker == nil || p.Worker.Ruby == nil {
			continue
		}
		full[p.Hostname] = true
		for _, r := range p.Worker.Ruby.Processes {
			if r.PID > 0 {
				feeders[place{p.Hostname, r.PID}] = p.Identity
			}
		}
	}
	for i := range s.Processes {
		if p := &s.Processes[i]; p.Worker == nil {
			p.FedBy = feeders[place{p.Hostname, p.PID}]
			p.unclaimed = p.FedBy == "" && p.young && full[p.Hostname]
		}
	}
}

func (s *Status) addQueues(states []queues.QueueState) {
	for _, q := range states {
		out := Queue{Name: q.Name, Backlog: q.Backlog, LatencySeconds: q.Latency, Paused: q.Paused}
		for i := range s.Processes {
			p := &s.Processes[i]
			switch {
			case p.Worker == nil:
				if p.FedBy == "" && !p.unclaimed && slices.Contains(p.Queues, q.Name) {
					out.Ruby++
				}
			case slices.Contains(p.Worker.Owned, q.Name):
				out.Owned = append(out.Owned, p.Identity)
			case p.Worker.side(q.Name) != nil:
				out.Owned = append(out.Owned, p.Identity)
				out.Of = p.Worker.side(q.Name).Queue
			case slices.Contains(p.Worker.Shared, q.Name):
				out.Shared = append(out.Shared, p.Identity)
			}
		}
		s.Queues = append(s.Queues, out)
	}
	slices.SortFunc(s.Queues, func(a, b Queue) int { return cmp.Compare(a.Name, b.Name) })
}

// side is a list beside a queue that a worker takes jobs from; nil if it does not.
func (w *Worker) side(name string) *Side {
	for i := range w.Sides {
		if w.Sides[i].Name == name {
			return &w.Sides[i]
		}
	}
	return nil
}

// addNotes says what the numbers alone do not.
func (s *Status) addNotes() {
	for _, q := range s.Queues {
		if q.Backlog > 0 && q.Ruby == 0 && len(q.Owned) == 0 && !q.Paused {
			note := "queue " + q.Name + " has jobs and nobody serves all of it"
			if side, ok := (scheduler.Goals{}).ParseSide(q.Name); ok {
				note += "; if they are jobs of " + side.Queue + " that a worker with --policy goals has put aside, queueville release gives them back to it"
			}
			s.Notes = append(s.Notes, note)
		}
		if len(q.Shared) > 0 && q.Ruby > 0 && q.Backlog == 0 {
			s.Notes = append(s.Notes, "queue "+q.Name+" is shared with Ruby that keeps up: idle Ruby threads get new jobs first, so the sidecar takes little. --own changes that")
		}
		if q.Paused {
			s.Notes = append(s.Notes, "queue "+q.Name+" is paused")
		}
	}
	s.addRubyNotes()
	for i := range s.Processes {
		w := s.Processes[i].Worker
		if w == nil {
			continue
		}
		if d := w.Database; d != nil && d.Limit == 0 && !s.Processes[i].silent() {
			s.Notes = append(s.Notes, s.Processes[i].Identity+" has no database connections: "+cmp.Or(d.Reason, "its lease is being taken"))
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

// addRubyNotes says what is wrong or unfinished with full mode.
func (s *Status) addRubyNotes() {
	full, led := false, false
	for i := range s.Processes {
		p := &s.Processes[i]
		if p.Worker == nil || p.Worker.Ruby == nil || p.silent() {
			continue
		}
		r := p.Worker.Ruby
		full = full || slices.Contains(p.Worker.Owned, CronQueue)
		led = led || r.Cron
		if r.Problem != "" {
			s.Notes = append(s.Notes, "Ruby does not start on "+p.Identity+": "+r.Problem)
		}
		if r.Held != "" {
			s.Notes = append(s.Notes, "Ruby on "+p.Identity+" starts no jobs: "+r.Held)
		}
		if r.Waits != "" && len(r.Processes) == 0 {
			s.Notes = append(s.Notes, "Ruby on "+p.Identity+" waits for database connections: "+r.Waits)
		}
		if alone := s.Beside(p.Worker.Owned); len(alone) > 0 {
			s.Notes = append(s.Notes, "Sidekiq still runs beside "+p.Identity+" and takes jobs from its queues, without crash safety: "+strings.Join(alone, " "))
		}
	}
	schedulers := s.Beside([]string{CronQueue})
	switch {
	case full && len(schedulers) > 0:
		s.Notes = append(s.Notes, "a Sidekiq of its own runs the cron scheduler beside that of full mode, so scheduled tasks run twice: stop "+strings.Join(schedulers, " "))
	case full && !led:
		s.Notes = append(s.Notes, "no process runs the cron scheduler: that is so for up to 90 s after a start or a crash; later the worker's log says why")
	}
}

// Supervised tells whether a process is a worker's Ruby process, or on a host in full mode and so young that its worker may not have said yet
// that it is its.
func (p *Process) Supervised() bool { return p.FedBy != "" || p.unclaimed }

// byItself tells whether a process is Sidekiq and surely no worker's.
func (p *Process) byItself() bool {
	return p.Worker == nil && p.FedBy == "" && !p.unclaimed && p.BeatAge <= settled.Seconds()
}

// silent tells whether a process has probably been killed. Sidekiq's list has it for up to a minute.
func (p *Process) silent() bool { return p.BeatAge > silent.Seconds() }

// Beside names the Sidekiq processes that take jobs of these queues by themselves: no worker feeds them, and they are not quiet. One
// that was silent for 15 s is left out, for it may have been killed; so is one that started within the last 15 s on a host in full mode.
func (s *Status) Beside(owned []string) []string {
	var list []string
	for i := range s.Processes {
		p := &s.Processes[i]
		if p.byItself() && !p.Quiet && slices.ContainsFunc(p.Queues, func(q string) bool { return slices.Contains(owned, q) }) {
			list = append(list, p.Identity)
		}
	}
	return list
}

func (s *Status) rubyServes(queue string) bool {
	for i := range s.Processes {
		if s.Processes[i].Worker == nil && slices.Contains(s.Processes[i].Queues, queue) {
			return true
		}
	}
	return false
}
