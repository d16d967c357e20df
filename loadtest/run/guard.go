package run

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
)

// guardScript reads which process groups there are ("+ 17") and are no more ("- 17"), and acts on the end of its input: then we are gone, however
// that came. $1 is the directory to remove.
const guardScript = `trap '' HUP INT TERM
groups=""
while read -r op group; do
	case $op in
	+) groups="$groups $group" ;;
	-) left=""
		for g in $groups; do [ "$g" = "$group" ] || left="$left $g"; done
		groups=$left ;;
	done) exit 0 ;;
	esac
done
for g in $groups; do kill -KILL "-$g"; done
rm -rf -- "$1"
`

// guard is the shell that ends the job processes if we cannot: they would go on looking for a Redis that is gone.
type guard struct {
	cmd *exec.Cmd
	mu  sync.Mutex
	in  io.WriteCloser
}

func startGuard(ctx context.Context, dir string) (*guard, error) {
	// It has to outlive ctx.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", "-c", guardScript, "sh", dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is meant for us, not for it
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	return &guard{cmd: cmd, in: in}, nil
}

// tell names a process group that there is ("+") or is no more ("-").
func (g *guard) tell(op string, group int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, _ = fmt.Fprintf(g.in, "%s %d\n", op, group) // without it the processes end with us in the usual ways only
}

// dismiss ends the guard, which then touches nothing.
func (g *guard) dismiss() error {
	g.mu.Lock()
	_, err := io.WriteString(g.in, "done\n")
	g.mu.Unlock()
	if waitErr := g.cmd.Wait(); err == nil {
		err = waitErr
	}
	if err != nil {
		return fmt.Errorf("dismiss the guard: %w", err)
	}
	return nil
}
