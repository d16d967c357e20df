package dbpool

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A process that is gone is over when no child lives that has inherited its kin, and what that has started.
func TestKinGone(t *testing.T) {
	kin, err := NewKin()
	if err != nil && runtime.GOOS != "linux" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	at, _, _ := strings.Cut(processName(nil), ":")
	gone := at + ":99999999:1"
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "sh", "-c", "sleep 600 & echo; wait")
	cmd.ExtraFiles = []*os.File{kin.File()}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // the grandchild is there
		t.Fatal(err)
	}
	check := func(when, process string, want bool) {
		t.Helper()
		if got := kinGone(process); got != want {
			t.Errorf("%s: kinGone(%q) = %v, want %v", when, process, got, want)
		}
	}
	check("a process of ours", processName(kin), false)
	check("the process is gone, its name is held here", gone+":"+kin.name, false)
	if err := kin.Close(); err != nil {
		t.Fatal(err)
	}
	check("held by children", gone+":"+kin.name, false)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = cmd.Process.Wait() // killed
	_ = out.Close()
	check("held by a grandchild", gone+":"+kin.name, false)
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); !kinGone(gone+":"+kin.name) && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	check("nobody is left", gone+":"+kin.name, true)
	check("another network", gone+":1-"+strings.Repeat("a", kinBytes), false)
	check("no kin", gone, false)
	check("nonsense", gone+":"+network()+"-x", false)
	check("alive", processName(kin), false)
}
