package footprint

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// Room is what a small heap may grow by before it is collected, in bytes. A heap of some MiB that is collected whenever it has grown by a quarter is
// collected many times a second, for the sake of a MiB.
const Room = 6 << 20

const mostPercent = 400

// Collect sets how often the garbage collector runs: when the heap has grown by that many per cent, or, as long as that is less, by Room. It does
// nothing where the environment has GOGC.
func Collect(percent int) {
	if os.Getenv("GOGC") != "" {
		return
	}
	p := &pacer{least: percent, live: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}}
	p.set()
	p.after()
}

// pacer chooses anew after every collection.
type pacer struct {
	least, now int
	live       []metrics.Sample
}

// mark is what a collection finds unused.
type mark struct{ *pacer }

func (p *pacer) after() {
	runtime.SetFinalizer(&mark{p}, func(m *mark) {
		m.set()
		m.after()
	})
}

func (p *pacer) set() {
	metrics.Read(p.live)
	live := uint64(0)
	if p.live[0].Value.Kind() == metrics.KindUint64 {
		live = p.live[0].Value.Uint64()
	}
	if want := percentFor(p.least, live); want != p.now {
		p.now = want
		debug.SetGCPercent(want)
	}
}

// percentFor is by how many per cent a heap of so many live bytes may grow: steps of a quarter, since every change stops the program for a moment.
func percentFor(least int, live uint64) int {
	percent := mostPercent
	if live > 0 {
		percent = int(min(100*Room/live, mostPercent))
	}
	return max(least, percent/25*25)
}
