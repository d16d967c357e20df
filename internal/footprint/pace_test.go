package footprint

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestPercentFor(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 1 << 20: 400, 3 << 20: 200, 6 << 20: 100, 10 << 20: 50, 24 << 20: 25, 100 << 20: 25, 1 << 40: 25} {
		if got := percentFor(25, live); got != want {
			t.Errorf("percentFor(25, %d MiB) = %d, want %d", live>>20, got, want)
		}
	}
}

// A heap that has become large is collected by the percentage again.
func TestCollectFollowsTheHeap(t *testing.T) {
	t.Setenv("GOGC", "")
	was := debug.SetGCPercent(100)
	defer debug.SetGCPercent(was)
	percent := func() int {
		p := debug.SetGCPercent(100)
		debug.SetGCPercent(p)
		return p
	}
	Collect(25)
	if got := percent(); got < 100 {
		t.Errorf("GOGC of a small heap: %d", got)
	}
	large := make([]byte, 200<<20)
	for end := time.Now().Add(20 * time.Second); percent() != 25; time.Sleep(5 * time.Millisecond) {
		if runtime.GC(); time.Now().After(end) {
			t.Fatalf("GOGC beside %d MiB: %d", len(large)>>20, percent())
		}
	}
	runtime.KeepAlive(large)
}
