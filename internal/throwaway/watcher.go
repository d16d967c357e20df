package throwaway

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"syscall"
)

// watchScript reads the process to end, one id a line (0: none), and acts on the end of its input: then we are gone.
// $1 is the directory to remove, $2 the signal that asks the server to end.
const watchScript = `trap '' HUP INT TERM
pid=0
while read -r line; do
	[ "$line" = done ] && exit 0
	pid=$line
done
if [ "$pid" -gt 0 ]; then
	kill -CONT "$pid"
	kill -"$2" "$pid"
	n=0
	while kill -0 "$pid" && [ "$n" -lt 30 ]; do
		sleep 0.1
		n=$((n + 1))
	done
	kill -KILL "$pid"
fi
rm -rf -- "$1"
`

// watcher is the shell that cleans up after us if we cannot.
type watcher struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

func startWatcher(ctx context.Context, dir, signal string) (*watcher, error) {
	// The watcher has to outlive ctx, which bounds only the start.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", "-c", watchScript, "sh", dir, signal)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is meant for us, not for it
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start watcher: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start watcher: %w", err)
	}
	return &watcher{cmd: cmd, in: in}, nil
}

// watch names the process to end with us; 0 for none.
func (w *watcher) watch(pid int) error {
	if _, err := io.WriteString(w.in, strconv.Itoa(pid)+"\n"); err != nil {
		return fmt.Errorf("tell watcher: %w", err)
	}
	return nil
}

// dismiss ends the watcher, which then touches nothing.
func (w *watcher) dismiss() error {
	_, err := io.WriteString(w.in, "done\n")
	if err != nil {
		err = fmt.Errorf("dismiss watcher: %w", err)
	}
	if waitErr := w.cmd.Wait(); err == nil && waitErr != nil {
		err = fmt.Errorf("dismiss watcher: %w", waitErr)
	}
	return err
}
