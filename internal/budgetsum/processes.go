package budgetsum

import (
	"fmt"
	"slices"
	"strings"

	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/units"
)

// FromUnits says what the processes of one host can hold, and what is wrong with their numbers.
func FromUnits(host string, list []units.Unit, env *Settings) (holders []Holder, problems []mastodonenv.Problem) {
	for i := range list {
		u := &list[i]
		var h Holder
		switch u.Kind {
		case units.KindWeb:
			h = env.web(u, &problems)
		case units.KindStreaming:
			h = env.streaming(u, &problems)
		case units.KindSidekiq:
			h = env.sidekiq(u, &problems)
		default:
			continue
		}
		h.Host, h.Name = host, strings.TrimSuffix(u.Name, ".service")
		if !u.Running && (u.Start == units.StartMasked || u.Start == units.StartDisabled) {
			h.Idle = true
			h.Origin = fmt.Sprintf("%s: %d if somebody starts it", notStarted(u.Start), h.Processes*h.Each)
		}
		holders = append(holders, h)
	}
	return holders, slices.Concat(problems, env.contradictions(list))
}

func notStarted(s units.Start) string {
	if s == units.StartMasked {
		return "masked"
	}
	return "not enabled"
}

// web: every worker of Puma has a pool of its own, of DB_POOL or else MAX_THREADS; without workers there is one process.
func (s *Settings) web(u *units.Unit, problems *[]mastodonenv.Problem) Holder {
	workers := s.number(u, "WEB_CONCURRENCY", defaultWorkers, problems)
	if u != nil && u.Workers.IsSet() {
		n, _ := u.Workers.Number()
		workers = number{n, "-w", u.Workers, true}
	}
	threads := s.number(u, "MAX_THREADS", defaultThreads, problems)
	pool := s.number(u, "DB_POOL", threads.n, problems)
	if !pool.isSet {
		pool = threads
	}
	served := threads
	if u != nil && u.Threads.IsSet() {
		n, _ := u.Threads.Number()
		served = number{n, "-t", u.Threads, true}
	}
	if pool.n < served.n {
		*problems = append(*problems, tooSmall(pool, served, "Puma", u))
	}
	return Holder{Role: RoleWeb, Processes: max(1, workers.n), Each: pool.n, Origin: fmt.Sprintf("%s × %s", workers, pool)}
}

// streaming: every process has a pool of DB_POOL or 10. Before Mastodon 4.2 one service was STREAMING_CLUSTER_NUM processes.
func (s *Settings) streaming(u *units.Unit, problems *[]mastodonenv.Problem) Holder {
	pool := s.number(u, "DB_POOL", defaultStreaming, problems)
	h := Holder{Role: RoleStreaming, Processes: 1, Each: pool.n, Origin: pool.String()}
	if s.Version.Known() && !s.Version.AtLeast(4, 2) {
		cluster := s.number(u, "STREAMING_CLUSTER_NUM", 1, problems)
		h.Processes = max(1, cluster.n)
		h.Origin = fmt.Sprintf("%s × %s", cluster, pool)
		if !cluster.isSet {
			at, _ := s.lookup(u, "STREAMING_CLUSTER_NUM")
			*problems = append(*problems, warning(at, "STREAMING_CLUSTER_NUM", "set it, or say the number with --also",
				"Mastodon %s starts a streaming process for each CPU but one; one is counted", s.Version))
		}
	}
	return h
}

// sidekiq: a pool of DB_POOL, else of as many as there are threads; before that became the default, of MAX_THREADS.
func (s *Settings) sidekiq(u *units.Unit, problems *[]mastodonenv.Problem) Holder {
	threads := s.number(u, "SIDEKIQ_CONCURRENCY", defaultSidekiq, problems)
	if u.Concurrency.IsSet() {
		n, _ := u.Concurrency.Number()
		threads = number{n, "-c", u.Concurrency, true}
	}
	pool := s.number(u, "DB_POOL", threads.n, problems)
	origin := pool.String()
	switch {
	case !pool.isSet:
		origin = threads.String() + ", as DB_POOL is not set"
		if u.Start != units.StartMasked && threads.n != defaultThreads {
			*problems = append(*problems, warning(units.Setting{File: u.File}, "DB_POOL", fmt.Sprintf("add Environment=DB_POOL=%d to the unit", threads.n),
				"is set nowhere for %d threads: Mastodon now opens up to %d connections, and older releases MAX_THREADS (%d), for which threads then wait",
				threads.n, threads.n, defaultThreads))
		}
	case pool.n < threads.n:
		*problems = append(*problems, tooSmall(pool, threads, "Sidekiq", u))
	}
	return Holder{Role: RoleSidekiq, Processes: 1, Each: pool.n, Threads: threads.n, Origin: origin}
}

// tooSmall: the classic. Threads wait 5 s for a connection and then fail the request or job.
func tooSmall(pool, threads number, what string, u *units.Unit) mastodonenv.Problem {
	unit, hint := "", fmt.Sprintf("set %s to %d or more there", pool.name, threads.n)
	if u != nil {
		unit = " of " + u.Name
		hint = fmt.Sprintf("add Environment=DB_POOL=%d to the unit", threads.n)
	}
	return warning(pool.at, pool.name, hint, "%d connections for %d threads of %s%s: threads wait for one another, and after 5 s jobs and requests fail",
		pool.n, threads.n, what, unit)
}

// contradictions are what units and the environment file say about each other.
func (s *Settings) contradictions(list []units.Unit) []mastodonenv.Problem {
	all, ok := s.values["DB_POOL"]
	n, isNumber := all.Number()
	if !ok || !isNumber {
		return nil
	}
	var problems []mastodonenv.Problem
	threads := s.number(nil, "MAX_THREADS", defaultThreads, &[]mastodonenv.Problem{})
	if n > threads.n || n > defaultStreaming {
		problems = append(problems, warning(all, "DB_POOL", "move it to the Sidekiq units, where the threads are",
			"%d counts for every process: each Puma worker can open %d connections instead of %d, each streaming process %d instead of %d",
			n, n, threads.n, n, defaultStreaming))
	}
	for i := range list {
		own, ok := list[i].Lookup("DB_POOL")
		if m, isNumber := own.Number(); ok && isNumber && m != n {
			problems = append(problems, warning(own, "DB_POOL", "keep one of them", "%d here and %d in %s; for %s the unit counts", m, n, shortPlace(all), list[i].Name))
		}
	}
	return problems
}

// Assume adds Puma and streaming with Mastodon's defaults where no host is known to have any: some host has them.
func Assume(holders []Holder, host string, env *Settings) ([]Holder, []mastodonenv.Problem) {
	var problems []mastodonenv.Problem
	for _, role := range []Role{RoleWeb, RoleStreaming} {
		if slices.ContainsFunc(holders, func(h Holder) bool { return h.Role == role }) {
			continue
		}
		h, what := env.web(nil, &problems), "Puma"
		if role == RoleStreaming {
			h, what = env.streaming(nil, &problems), "streaming"
		}
		h.Host, h.Assumed = host, true
		h.Origin = "assumed: " + h.Origin
		holders = append(holders, h)
		problems = append(problems, mastodonenv.Problem{
			Severity: mastodonenv.SeverityWarning, Name: what, What: fmt.Sprintf("no unit of it was found, so %d × %d connections are assumed", h.Processes, h.Each),
			Hint: fmt.Sprintf("give --units DIR, or say what runs: --also \"HOST: %s %dx%d\" (0 for none)", role, h.Processes, h.Each),
		})
	}
	return holders, problems
}

// RubyProcess is a Sidekiq process that runs now, from Sidekiq's own list.
type RubyProcess struct {
	Host        string
	Concurrency int
}

// AddRunning compares the Sidekiq processes that run with the units that are known. Those of hosts of which no unit is known are added;
// how large their pools are, the list does not say.
func AddRunning(holders []Holder, running []RubyProcess) ([]Holder, []mastodonenv.Problem) {
	type seen struct{ processes, threads int }
	hosts, order := map[string]*seen{}, []string{}
	for _, p := range running {
		if hosts[p.Host] == nil {
			hosts[p.Host] = &seen{}
			order = append(order, p.Host)
		}
		hosts[p.Host].processes++
		hosts[p.Host].threads += min(max(p.Concurrency, 0), maxEach)
	}
	slices.Sort(order)
	var problems []mastodonenv.Problem
	for _, host := range order {
		known, threads, run := false, 0, hosts[host]
		for i := range holders {
			if holders[i].Role == RoleSidekiq && holders[i].Host == host {
				known = true
				if !holders[i].Idle {
					threads += max(holders[i].Threads, holders[i].CanHold())
				}
			}
		}
		if known && run.threads <= threads {
			continue
		}
		missing := run.threads - threads
		h := Holder{
			Role: RoleSidekiq, Host: host, Name: "running", Processes: 1, Each: missing, Threads: missing,
			Origin: fmt.Sprintf("%s in Sidekiq's list; DB_POOL not known", countOf(run.processes, "process", "processes")),
		}
		holders = append(holders, h)
		if known {
			problems = append(problems, mastodonenv.Problem{
				Severity: mastodonenv.SeverityWarning, Name: "sidekiq on " + host,
				What: fmt.Sprintf("%d threads run, and the units known account for %d; the other %d are counted too", run.threads, threads, missing),
				Hint: "was a process started by hand, or a unit changed and not restarted?",
			})
		}
	}
	return holders, problems
}

func countOf(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
