package rubyapp

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// Run is one execution of a job that ended.
type Run struct {
	Class string  `json:"class"`
	JID   string  `json:"jid"`
	PID   int     `json:"pid"`
	TID   string  `json:"tid"`
	Queue string  `json:"queue"`
	Start float64 `json:"start"` // Unix seconds
	End   float64 `json:"end"`   // same
	Error string  `json:"error"` // class of what it raised; "killed" for a thread that was; "" for success
}

// Begun is one execution of a job that began; it may have been cut off.
type Begun struct {
	Class string  `json:"class"`
	JID   string  `json:"jid"`
	PID   int     `json:"pid"`
	At    float64 `json:"at"` // Unix seconds
}

// Runs lists the executions that ended, of the given classes or of all, in the order of their start.
func (a *App) Runs(classes ...string) []Run {
	a.tb.Helper()
	keys := make([]string, len(classes))
	for i, class := range classes {
		keys[i] = "ran:" + class
	}
	if len(classes) == 0 {
		var err error
		if keys, err = a.Redis.Keys(a.tb.Context(), "ran:*").Result(); err != nil {
			a.tb.Fatalf("read what ran: %v", err)
		}
	}
	var runs []Run
	for _, key := range keys {
		if slices.Contains([]string{"ran:started", "ran:count", "ran:failed", "ran:ticks"}, key) {
			continue
		}
		runs = append(runs, list[Run](a, key)...)
	}
	slices.SortStableFunc(runs, func(x, y Run) int {
		switch {
		case x.Start < y.Start:
			return -1
		case x.Start > y.Start:
			return 1
		}
		return strings.Compare(x.JID, y.JID)
	})
	return runs
}

// Started lists the executions that began, in their order.
func (a *App) Started() []Begun {
	a.tb.Helper()
	return list[Begun](a, "ran:started")
}

func list[T any](a *App, key string) []T {
	a.tb.Helper()
	texts, err := a.Redis.LRange(a.tb.Context(), key, 0, -1).Result()
	if err != nil {
		a.tb.Fatalf("read %s: %v", key, err)
	}
	out := make([]T, len(texts))
	for i, text := range texts {
		if err := json.Unmarshal([]byte(text), &out[i]); err != nil {
			a.tb.Fatalf("%s holds %q: %v", key, text, err)
		}
	}
	return out
}

// Notes lists what jobs wrote under a name: "mail", "announcement:<id>".
func (a *App) Notes(name string) []string {
	a.tb.Helper()
	texts, err := a.Redis.LRange(a.tb.Context(), "note:"+name, 0, -1).Result()
	if err != nil {
		a.tb.Fatalf("read notes: %v", err)
	}
	return texts
}

// WaitRuns waits until all of the jobs have ended at least once, as long as the limit, and returns all runs by jid. It fails the test at the
// limit and says how many and which are missing.
func (a *App) WaitRuns(limit time.Duration, jids ...string) map[string][]Run {
	a.tb.Helper()
	deadline := time.Now().Add(limit)
	for {
		by := map[string][]Run{}
		for _, r := range a.Runs() {
			by[r.JID] = append(by[r.JID], r)
		}
		var missing []string
		for _, jid := range jids {
			if len(by[jid]) == 0 {
				missing = append(missing, jid)
			}
		}
		if len(missing) == 0 {
			return by
		}
		if time.Now().After(deadline) {
			a.tb.Fatalf("%d of %d jobs have not run after %v, such as %v", len(missing), len(jids), limit, missing[:min(3, len(missing))])
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // tests only; there is no event to wait for
	}
}

// Once fails the test for every one of the jobs that did not run exactly once, successfully.
func (a *App) Once(jids ...string) {
	a.tb.Helper()
	by := map[string][]Run{}
	for _, r := range a.Runs() {
		by[r.JID] = append(by[r.JID], r)
	}
	begun := map[string]int{}
	for _, b := range a.Started() {
		begun[b.JID]++
	}
	for _, jid := range jids {
		if runs := by[jid]; len(runs) != 1 || runs[0].Error != "" || begun[jid] != 1 {
			a.tb.Errorf("job %s: began %d times, ended %+v; want once, without an error", jid, begun[jid], runs)
		}
	}
}
