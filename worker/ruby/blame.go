package ruby

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/queueville/queueville/queues"
)

const (
	aloneDeaths  = 2              // deaths from which on a job runs alone in its process
	buryDeaths   = 4              // deaths with which it goes to the dead set
	poisonWindow = 72 * time.Hour // in which they count
	blameTimeout = 5 * time.Second
	maxDeaths    = 10_000 // jids remembered when there is no Redis to do it
)

// blame counts the death of a process against the jobs that ran in it, and returns or buries them.
func (s *Supervisor) blame(p *process, jobs []*running) {
	var e effects
	for _, r := range jobs {
		n := s.countDeath(r.job.JID, p.token)
		s.cfg.Log.Warn("job's process died by itself", slog.Int("pid", p.pid), slog.String("queue", r.job.Queue), slog.String("class", r.job.Class),
			slog.String("jid", r.job.JID), slog.Int("deaths", n))
		s.cfg.Observer.Poisoned(r.job.Class, n)
		res := Result{Kind: Returned, Label: LabelCrashed, PID: p.pid}
		if n >= aloneDeaths {
			res.Payload = marked(r.job.Payload, n, LabelCrashed, time.Now())
		}
		if n >= buryDeaths {
			res.Kind, res.Label = Dead, LabelPoison
		}
		e.end(r.job, res)
	}
	s.carryOut(&e)
}

// countDeath returns 0 if it could not be counted: then it is not counted.
func (s *Supervisor) countDeath(jid, death string) int {
	if jid == "" {
		return 0
	}
	if s.cfg.Poison == nil {
		return s.countHere(jid, time.Now())
	}
	ctx, cancel := context.WithTimeout(context.Background(), blameTimeout) // whatever ends meanwhile
	defer cancel()
	n, err := s.cfg.Poison.CountPoison(ctx, jid, death)
	if err != nil {
		s.cfg.Log.Warn("death of a job's process was not counted", slog.String("jid", jid), slog.Any("err", err))
		return 0
	}
	return n
}

func (s *Supervisor) countHere(jid string, now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.deaths) >= maxDeaths {
		clear(s.deaths)
	}
	recent := slices.DeleteFunc(s.deaths[jid], func(t time.Time) bool { return now.Sub(t) >= poisonWindow })
	s.deaths[jid] = append(recent, now)
	return len(s.deaths[jid])
}

// marked adds to a payload that it killed its processes, without touching the rest; and, if it never failed, what Sidekiq's pages show of a
// dead job. The bytes as they are if it is no JSON object.
func marked(payload string, deaths int, why string, now time.Time) string {
	at := queues.JSONFloatSeconds(float64(now.UnixMicro()) / 1e6)
	fields := []queues.Field{{
		Name: queues.PoisonField,
		Raw:  `{"deaths":` + strconv.Itoa(deaths) + `,"why":` + queues.JSONString(why) + `,"at":` + at + `}`,
	}}
	if _, failed := queues.TopLevel(payload, "error_class"); deaths >= buryDeaths && !failed {
		fields = append(fields,
			queues.Field{Name: "error_class", Raw: queues.JSONString("Queueville::PoisonJob")},
			queues.Field{Name: "error_message", Raw: queues.JSONString(explain(deaths, why))},
			queues.Field{Name: "failed_at", Raw: at})
	}
	out, err := queues.SetFields(payload, fields...)
	if err != nil {
		return payload
	}
	return out
}

func explain(deaths int, why string) string {
	n := strconv.Itoa(deaths)
	switch why {
	case LabelStuck:
		return "did not end in time " + n + " times"
	case LabelAbandoned:
		return "ended its thread " + n + " times without a result that Sidekiq could store"
	}
	return "the Ruby process that ran it died by itself " + n + " times within 72 hours"
}
