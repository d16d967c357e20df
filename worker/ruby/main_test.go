package ruby

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/queueville/queueville/internal/redistest"
)

// TestMain also is the worker that is killed in orphan_test.go.
func TestMain(m *testing.M) {
	if spec := os.Getenv(workerEnv); spec != "" {
		os.Exit(runWorker(spec))
	}
	code := m.Run()
	if err := redistest.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the shared redis-server:", err)
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines left over:", err)
			code = 1
		}
	}
	os.Exit(code)
}
