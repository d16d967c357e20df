package measure

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestSeries(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in     Series
		median float64
		text   string
	}{
		"none": {nil, 0, "–"},
		"one":  {Series{3}, 3, "3"},
		"odd":  {Series{9, 1, 5}, 5, "5 (1–9)"},
		"even": {Series{4, 2}, 3, "3 (2–4)"},
	} {
		if got := tc.in.Median(); got != tc.median {
			t.Errorf("%s: Median(%v) = %v, want %v", name, tc.in, got, tc.median)
		}
		if got := tc.in.Range("%.0f"); got != tc.text {
			t.Errorf("%s: Range(%v) = %q, want %q", name, tc.in, got, tc.text)
		}
	}
}

func TestTargetMet(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in   Target
		want bool
	}{
		"at least, above": {Target{Got: 11, Limit: 10}, true},
		"at least, below": {Target{Got: 9, Limit: 10}, false},
		"at most, below":  {Target{Got: 9, Limit: 10, Most: true}, true},
		"at most, above":  {Target{Got: 11, Limit: 10, Most: true}, false},
	} {
		if got := tc.in.Met(); got != tc.want {
			t.Errorf("%s: Met() = %v, want %v", name, got, tc.want)
		}
	}
}

func TestTableIsAligned(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := Table(&b, [][]string{{"what", "µs"}, {"größe", "12.5"}}); err != nil {
		t.Fatal(err)
	}
	const want = "| what  |   µs |\n|-------|-----:|\n| größe | 12.5 |\n"
	if b.String() != want {
		t.Errorf("Table = %q, want %q", b.String(), want)
	}
}

// Script-internal commands must not count as round trips, nor what the harness itself asks.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	r := Redis{Calls: map[string]int64{}}
	for _, line := range []string{
		"cmdstat_evalsha:calls=7,usec=10,usec_per_call=1.4,rejected_calls=0,failed_calls=0", "cmdstat_hset:calls=700,usec=1",
		"cmdstat_blmove:calls=2,usec=1", "cmdstat_llen:calls=90,usec=1", "cmdstat_info:calls=6,usec=1", "used_cpu_user:1.5", "used_cpu_sys:0.5",
	} {
		r.read(line)
	}
	if got := r.RoundTrips("hset"); got != 9 {
		t.Errorf("RoundTrips = %d, want 9", got)
	}
	if r.CPU != 2*time.Second {
		t.Errorf("CPU = %v, want 2s", r.CPU)
	}
	if d := r.Since(Redis{CPU: time.Second, Calls: map[string]int64{"evalsha": 4}}); d.CPU != time.Second || d.Calls["evalsha"] != 3 {
		t.Errorf("Since = %+v", d)
	}
}

// The clock of another process must be that process's: it moves when we work and hardly while we sleep.
func TestCPUIsTheProcessClock(t *testing.T) {
	t.Parallel()
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for n, end := 0, time.Now().Add(5*time.Second); ; n++ {
		after, err := CPU(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if after-before > time.Millisecond {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("worked for 5 s, the clock moved by %v", after-before)
		}
	}
	m, err := ReadMemory(os.Getpid())
	if err != nil || m.Resident < 1<<20 || m.Peak < m.Resident/2 {
		t.Errorf("ReadMemory = %+v, %v", m, err)
	}
}
