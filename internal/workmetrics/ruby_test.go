package workmetrics

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/worker"
	"github.com/queueville/queueville/worker/ruby"
)

// TestRuby: what Ruby's jobs cost and how its processes are, and that its failures count under Mastodon's names although they are acknowledged.
func TestRuby(t *testing.T) {
	t.Parallel()
	m := New(Config{
		Prefix: "mastodon_", Store: queues.NewStore(redistest.Client(t), ""),
		Ruby: func() (ruby.Load, []ruby.Process) {
			return ruby.Load{Waiting: 7, Running: 12, Processes: 2, Booting: 1, Leaving: 1, Threads: 50, Cron: true, Problem: "no bundle"},
				[]ruby.Process{{PID: 10, Slot: 0, PSS: 300 << 20}, {PID: 11, Slot: 1, PSS: 0}, {PID: 12, Slot: 2, PSS: 1}, {PID: 13, Slot: 2, PSS: 2}}
		},
	})
	const class = "LinkCrawlWorker"
	end := func(r worker.Result, label string, failed bool, run time.Duration) {
		m.Ended(worker.End{Queue: "pull", Class: class, JID: "1", Result: r, Label: label, Wait: -1, Run: run, Foreign: true, Failed: failed, CPU: run / 4, DB: run / 2})
	}
	end(worker.Acked, ruby.LabelDone, false, 2*time.Second)
	end(worker.Acked, ruby.LabelFailed, true, 2*time.Second)
	end(worker.Requeued, ruby.LabelCrashed, false, 0)
	end(worker.Dead, ruby.LabelPoison, false, 0)
	o := m.Ruby()
	o.ProcessReady(3 * time.Second)
	o.ProcessEnded(ruby.EndingCrashed)
	o.ProcessEnded(ruby.EndingCrashed)
	o.BootFailed()
	o.Stuck(class)
	o.Poisoned(class, 4)
	o.TickLost("daily", true)

	status, body := page(t, m, NewHealth(time.Minute))("/metrics")
	if status != http.StatusOK {
		t.Fatalf("/metrics answers %d: %s", status, body)
	}
	labels, by := `{job_name="`+class+`",queue="pull"}`, `{class="`+class+`"}`
	for _, want := range []string{
		"mastodon_sidekiq_jobs_total" + labels + " 3", "mastodon_sidekiq_failed_jobs_total" + labels + " 2", "mastodon_sidekiq_dead_jobs_total" + labels + " 1",
		"mastodon_sidekiq_job_duration_seconds_count" + labels + " 2",
		`queueville_jobs_ended_total{class="` + class + `",queue="pull",result="requeued"} 1`,
		`queueville_ruby_jobs_total{class="` + class + `",label="failed"} 1`, `queueville_ruby_jobs_total{class="` + class + `",label="crashed"} 1`,
		"queueville_ruby_run_seconds_total" + by + " 4", "queueville_ruby_cpu_seconds_total" + by + " 1", "queueville_ruby_db_seconds_total" + by + " 2",
		`queueville_ruby_processes{state="serving"} 2`, `queueville_ruby_processes{state="booting"} 1`, `queueville_ruby_processes{state="leaving"} 1`,
		"queueville_ruby_threads 50", "queueville_ruby_jobs_running 12", "queueville_ruby_jobs_waiting 7", "queueville_ruby_cron_leader 1", "queueville_ruby_boot_problem 1",
		`queueville_ruby_process_pss_bytes{slot="0"} 3.145728e+08`, `queueville_ruby_process_pss_bytes{slot="2"} 1`,
		`queueville_ruby_boot_seconds_bucket{le="5"} 1`, "queueville_ruby_boot_failures_total 1", `queueville_ruby_processes_ended_total{why="crashed"} 2`,
		"queueville_ruby_stuck_jobs_total" + by + " 1", "queueville_ruby_poison_deaths_total" + by + " 1", `queueville_ruby_cron_ticks_lost_total{entry="daily",made_up="true"} 1`,
	} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("/metrics does not have %s", want)
		}
	}
	if strings.Contains(body, `slot="1"`) {
		t.Error("a process whose memory is not known has one")
	}
}

// TestRubyHostileNames: classes and cron entries cost a bounded number of series, together with what the native side has.
func TestRubyHostileNames(t *testing.T) {
	t.Parallel()
	m := New(Config{
		Prefix: "ruby_", Store: queues.NewStore(redistest.Client(t), ""),
		Ruby: func() (ruby.Load, []ruby.Process) { return ruby.Load{}, nil },
	})
	for i := range 3000 {
		bad := fmt.Sprintf("C%d\xff{}\n", i)
		m.Ended(worker.End{Queue: "default", Class: bad, Result: worker.Acked, Label: ruby.LabelDone, Run: 1, Foreign: true})
		m.Ruby().Stuck(bad)
		m.Ruby().Poisoned(bad, i)
		m.Ruby().TickLost(bad, false)
	}
	status, body := page(t, m, NewHealth(time.Minute))("/metrics")
	if status != http.StatusOK {
		t.Fatalf("/metrics answers %d: %.2000s", status, body)
	}
	for name, most := range map[string]int{"queueville_ruby_jobs_total": maxClasses + 1, "queueville_ruby_stuck_jobs_total": maxClasses + 1, "queueville_ruby_cron_ticks_lost_total": maxClasses + 1} {
		if n := strings.Count(body, "\n"+name+"{"); n != most {
			t.Errorf("%d series of %s, want %d", n, name, most)
		}
	}
}

// TestNoRuby: a sidecar's page says nothing of Ruby processes, and its observer can be called.
func TestNoRuby(t *testing.T) {
	t.Parallel()
	m := New(Config{Prefix: "ruby_", Store: queues.NewStore(redistest.Client(t), "")})
	m.Ruby().ProcessReady(time.Second)
	m.Ended(worker.End{Queue: "q", Class: "C", Result: worker.Acked, Run: 1, Foreign: true, Failed: true})
	if _, body := page(t, m, NewHealth(time.Minute))("/metrics"); strings.Contains(body, "queueville_ruby_") {
		t.Error("a worker without Ruby has metrics of Ruby")
	}
}
