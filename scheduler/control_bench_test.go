package scheduler

import (
	"fmt"
	"testing"
	"time"
)

// One step of the controller happens four times a second.
func BenchmarkControllerStep(b *testing.B) {
	for _, lanes := range []int{1, 2, 8} {
		b.Run(fmt.Sprintf("lanes=%d", lanes), func(b *testing.B) {
			var cfg ControllerConfig
			var views []Lane
			for i := range lanes {
				cfg.Lanes = append(cfg.Lanes, LaneConfig{Name: fmt.Sprint(i), Max: 512})
				views = append(views, Lane{Name: fmt.Sprint(i), Full: 1, Done: 50, Wall: 0.1, CPU: 3 / float64(lanes), Want: 3 / float64(lanes), Arrivals: 300, Backlog: 1000})
			}
			c, err := NewController(cfg)
			if err != nil {
				b.Fatal(err)
			}
			host := Host{Cores: 4, Busy: 3.8, Ours: 3, Pressure: 0.5, MemoryTotal: 8 << 30, MemoryAvailable: 4 << 30}
			now := t0
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(250 * time.Millisecond)
				for i := range views {
					views[i].Running = float64(c.Limit(views[i].Name))
				}
				c.Step(now, host, views)
			}
		})
	}
}
