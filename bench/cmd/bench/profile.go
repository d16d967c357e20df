package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/metrics"
	"runtime/pprof"
	"time"
)

// profileCPU writes a CPU profile to path until the returned function is called.
func profileCPU(path string) (stop func() error, err error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("make profile: %w", err)
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, errors.Join(fmt.Errorf("start profile: %w", err), file.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return file.Close()
	}, nil
}

// profileHeap writes a heap profile to path whenever the process has grown by a twentieth, and what the runtime says of its memory beside
// it, until ctx ends.
func profileHeap(ctx context.Context, path string) {
	names := []string{
		"/memory/classes/total:bytes", "/memory/classes/heap/objects:bytes", "/memory/classes/heap/unused:bytes", "/memory/classes/heap/free:bytes",
		"/memory/classes/heap/released:bytes", "/memory/classes/heap/stacks:bytes", "/memory/classes/metadata/mspan/inuse:bytes",
		"/memory/classes/other:bytes", "/sched/goroutines:goroutines", "/gc/heap/live:bytes", "/gc/heap/goal:bytes",
	}
	samples := make([]metrics.Sample, len(names))
	for i := range samples {
		samples[i].Name = names[i]
	}
	most := uint64(0)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(samples)
		total := samples[0].Value.Uint64() - samples[4].Value.Uint64()
		if total <= most+most/20 {
			continue
		}
		most = total
		_ = writeFile(path, func(w io.Writer) error { return pprof.Lookup("heap").WriteTo(w, 0) })
		_ = writeFile(path+".txt", func(w io.Writer) error {
			for i := range samples {
				if _, err := fmt.Fprintf(w, "%-48s %12d\n", samples[i].Name, samples[i].Value.Uint64()); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

func writeFile(path string, write func(io.Writer) error) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}
