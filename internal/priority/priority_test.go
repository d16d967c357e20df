package priority

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// childEnv makes this binary lower its own priority: the tests' must not change.
const childEnv = "QUEUEVILLE_TEST_NICE"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	for range 4 { // threads of its own
		started := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(started)
			select {}
		}()
		<-started
	}
	if err := Lower(7); err != nil {
		panic(err)
	}
	if err := Lower(3); err != nil { // never back up
		panic(err)
	}
	tids, err := threads()
	if err != nil {
		panic(err)
	}
	for _, tid := range tids {
		raw, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
		if err != nil {
			panic(err)
		}
		_, _ = os.Stdout.WriteString(strconv.Itoa(20-raw) + "\n")
	}
	child := exec.Command("nice")
	child.Stdout = os.Stdout
	if err := child.Run(); err != nil {
		panic(err)
	}
	os.Exit(0)
}

func TestLower(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Fields(string(out))
	if len(lines) < 6 {
		t.Errorf("%d threads", len(lines)-1)
	}
	for _, l := range lines { // the last is a child's
		if l != "7" {
			t.Errorf("nice values %v, want 7 everywhere", lines)
		}
	}
	for _, bad := range []int{0, -1, 20} {
		if Lower(bad) == nil {
			t.Errorf("Lower(%d) is nil", bad)
		}
	}
}
