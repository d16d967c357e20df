package governor

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Every thread of the process becomes nice, those it starts later and its children are too, and nothing becomes less nice than it was. The test
// runs in a process of its own: nobody but root takes niceness back.
func TestBeNice(t *testing.T) {
	if os.Getenv("GOVERNOR_NICE") != "" {
		if err := BeNice(5); err != nil {
			t.Fatal(err)
		}
		if err := BeNice(3); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				runtime.LockOSThread()
				answer, err := syscall.Getpriority(syscall.PRIO_PROCESS, syscall.Gettid())
				if err != nil || 20-answer != 5 {
					t.Errorf("a thread has niceness %d (%v), want 5", 20-answer, err)
				}
			})
		}
		wg.Wait()
		out, err := exec.CommandContext(t.Context(), "nice").Output()
		if got := strings.TrimSpace(string(out)); err != nil || got != "5" {
			t.Errorf("a child has niceness %s (%v), want 5", got, err)
		}
		return
	}
	if answer, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0); err != nil || answer != 20 {
		t.Skip("this process is nice already: " + strconv.Itoa(20-answer))
	}
	t.Parallel()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0], "-test.run", "^TestBeNice$") //nolint:gosec // ourselves
	cmd.Env = append(os.Environ(), "GOVERNOR_NICE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
