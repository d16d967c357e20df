package activitypub

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/queueville/queueville/internal/pgtest"
	"github.com/queueville/queueville/internal/redistest"
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(receiverEnv); spec != "" {
		if err := benchReceiver(spec); err != nil {
			os.Stderr.WriteString(err.Error() + "\n") //nolint:errcheck // about to exit
		}
		return
	}
	code := m.Run()
	for _, stop := range []func() error{pgtest.Stop, redistest.Stop} {
		if err := stop(); err != nil && code == 0 {
			code = 1
		}
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			os.Stderr.WriteString(err.Error() + "\n") //nolint:errcheck // about to exit
			code = 1
		}
	}
	os.Exit(code)
}
