package ruby

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/queueville/queueville/internal/redistest"
)

func TestMain(m *testing.M) {
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
