package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/simulate"
)

// Report is everything that is reported.
type Report struct {
	Scenario    Scenario    `json:"scenario"`
	Environment Environment `json:"environment"`
	Runs        []Run       `json:"runs"`
	Assumptions []string    `json:"assumptions"`
}

// Scenario is what was run.
type Scenario struct {
	Name    string           `json:"name"`
	About   string           `json:"about"`
	Story   string           `json:"story"`
	Seed    uint64           `json:"seed"`
	Clock   time.Duration    `json:"clock_ns"` // time of day at the beginning
	Zone    string           `json:"zone"`
	Length  time.Duration    `json:"length_ns"`
	Drain   time.Duration    `json:"drain_ns"`
	Users   int              `json:"users"`
	Active  int              `json:"active_users"`
	Hosts   []string         `json:"hardware"`
	Marks   []simulate.Mark  `json:"marks"`
	Stages  []simulate.Stage `json:"stages"`
	Changed []string         `json:"changed,omitempty"` // what the command line changed of the file
}

// Environment is what the run was made with.
type Environment struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	System  string `json:"system"`
	Kind    string `json:"kind"` // KindSimulated or KindReal
}

// Kinds of runs.
const (
	KindSimulated = "simulated"
	KindReal      = "real run"
)

// Run is one engine's.
type Run struct {
	Result *simulate.Result `json:"result"`
	Checks []scenario.Check `json:"thresholds"`
	Met    bool             `json:"met"`
}

// New puts a report together.
func New(s *scenario.Scenario, results []*simulate.Result, version string, changed []string) *Report {
	r := &Report{
		Scenario: Scenario{
			Name: s.Name, About: s.About, Story: s.Story, Seed: s.Seed, Clock: s.Clock, Zone: s.Zone, Length: s.Length, Drain: s.Drain,
			Users: s.World.Server.Users, Active: s.World.Server.Active, Marks: s.Marks(), Stages: s.Hardware, Changed: changed,
		},
		Environment: Environment{Version: version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, Kind: KindSimulated},
		Assumptions: assumptions(s),
	}
	for _, stage := range s.Hardware {
		r.Scenario.Hosts = append(r.Scenario.Hosts, hardware(&stage))
	}
	for _, res := range results {
		checks, met := s.CheckAll(res)
		r.Runs = append(r.Runs, Run{Result: res, Checks: checks, Met: met && !res.Partial})
	}
	return r
}

// Met says whether all thresholds of all runs are met.
func (r *Report) Met() bool {
	for i := range r.Runs {
		if !r.Runs[i].Met {
			return false
		}
	}
	return true
}

// hardware says in words what a stage is.
func hardware(s *simulate.Stage) string {
	var groups []string
	for i := 0; i < len(s.Hosts); {
		n := 1
		for i+n < len(s.Hosts) && s.Hosts[i+n].Cores == s.Hosts[i].Cores && s.Hosts[i+n].Speed == s.Hosts[i].Speed {
			n++
		}
		h := &s.Hosts[i]
		text := fmt.Sprintf("%d × %d cores", n, h.Cores)
		if h.Speed != 0 && h.Speed != 1 {
			text += fmt.Sprintf(" of speed %g", h.Speed)
		}
		var procs []string
		for k := 0; k < len(h.Sidekiq); {
			m := 1
			for k+m < len(h.Sidekiq) && sameProcess(&h.Sidekiq[k], &h.Sidekiq[k+m]) {
				m++
			}
			p := command(&h.Sidekiq[k])
			if m > 1 {
				p = fmt.Sprintf("%d of %s", m, p)
			}
			procs = append(procs, p)
			k += m
		}
		groups = append(groups, text+"; Sidekiq on each: "+strings.Join(procs, ", "))
		i += n
	}
	text := "from " + clock(s.At) + ": " + strings.Join(groups, "; ")
	return text + fmt.Sprintf("; PostgreSQL %d cores, %v a query's way", s.Database.Cores, s.Database.RoundTrip)
}

func sameProcess(a, b *simulate.Process) bool {
	return command(a) == command(b) && a.DBPool == b.DBPool
}

func command(p *simulate.Process) string {
	text := fmt.Sprintf("-c %d", p.Concurrency)
	if p.DBPool != 0 && p.DBPool != p.Concurrency {
		text = fmt.Sprintf("DB_POOL=%d ", p.DBPool) + text
	}
	for _, q := range p.Queues {
		text += " -q " + q.Name
		if q.Weight > 0 {
			text += "," + strconv.Itoa(q.Weight)
		}
	}
	return text
}

// clock writes a time since the beginning as 17:30 h.
func clock(d time.Duration) string {
	return fmt.Sprintf("%d:%02d h", int(d.Hours()), int(d.Minutes())%60)
}

// assumptions are what the reader has to know before believing anything.
func assumptions(s *scenario.Scenario) []string {
	c := s.World.Costs
	factor := func(v float64) string {
		if v == 0 {
			v = 1
		}
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	list := []string{
		"This is a simulation: discrete events in virtual time, not a measurement. What it models and leaves out is in docs/loadtest.md.",
		"What jobs cost is estimated, except deliveries, which docs/benchmarks.md has measured; scaled here by " + factor(c.CPU) + " (processor in Ruby), " + factor(c.DB) +
			" (PostgreSQL) and " + factor(c.Net) + " (answers of other servers).",
		"A Ruby process runs one thread at a time; a job computes and waits in three to six alternating parts.",
		"The same seed gives both engines the same jobs, costs and answers of other servers.",
		"Queueville runs in full mode: deliveries natively, everything else in Ruby processes that it sizes, with the policy code of packages scheduler and dbpool. Its budget of " +
			"connections is the scenario's, or what stock Sidekiq's pools add up to.",
	}
	if s.Name == "twitter-migration" {
		list = append(list, "Published by Fosstodon are the threads and backlogs at a few moments (docs/loadtest.md). The machine, the costs, the mix of jobs and the shape of the "+
			"wave between those moments are assumed; the load was set so that stock Sidekiq's simulated backlog passes the published points.")
	}
	return list
}

// WriteJSON writes the report as one object.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// engineName is the name for people.
func engineName(e simulate.EngineName) string {
	if e == simulate.Sidekiq {
		return "stock Sidekiq"
	}
	return "Queueville"
}

// span writes seconds for people: 0.3 s, 45 s, 12 min, 3.4 h.
func span(s float64) string {
	switch {
	case s < 0 || math.IsNaN(s):
		return "–"
	case s == 0:
		return "0 s"
	case s < 0.001:
		return "< 1 ms"
	case s < 1:
		return fmt.Sprintf("%.0f ms", s*1000)
	case s < 10:
		return fmt.Sprintf("%.1f s", s)
	case s < 120:
		return fmt.Sprintf("%.0f s", s)
	case s < 7200:
		return fmt.Sprintf("%.0f min", s/60)
	}
	return fmt.Sprintf("%.1f h", s/3600)
}

// count writes 1234567 as 1,234,567.
func count(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func percent(x float64) string {
	p := 100 * x
	switch {
	case p > 99.95 && p < 100:
		return "99.9 %"
	case p >= 99:
		return fmt.Sprintf("%.1f %%", p)
	}
	return fmt.Sprintf("%.0f %%", p)
}
