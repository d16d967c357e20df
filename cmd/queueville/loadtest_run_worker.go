package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/queueville/queueville/internal/sidecar"
	"github.com/queueville/queueville/worker"
)

// newLoadtestWorker is `work`, and tells the load test that started it of every job that it ran itself.
func newLoadtestWorker(io stdio, release func()) *cobra.Command {
	opts := sidecar.DefaultOptions()
	var socket string
	cmd := &cobra.Command{
		Use:    "worker --report SOCKET …",
		Short:  "The worker of a load test: work, and tell of every job",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := dialReporter(cmd.Context(), socket)
			if err != nil {
				return unavailable(err, "it is started by queueville loadtest run")
			}
			err = work(cmd.Context(), io, opts, release, func(env *sidecar.Env) { env.Ended = r.ended })
			return errors.Join(err, r.close())
		},
	}
	opts.Bind(cmd.Flags())
	cmd.Flags().StringVar(&socket, "report", "", "the load test's control socket")
	return cmd
}

// reporter tells a load test what became of each job. What it has to say is bounded: when nobody listens the worker is not held up.
type reporter struct {
	conn  net.Conn
	lines chan string // written by ended, closed by close
	done  chan struct{}
	err   error // of writing; read after done
}

const (
	reportBuffer  = 64 << 10 // lines
	reportTimeout = 10 * time.Second
)

var errUnheard = errors.New("the load test did not listen: its figures of this worker are incomplete")

func dialReporter(ctx context.Context, socket string) (*reporter, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("find the load test: %w", err)
	}
	r := &reporter{conn: conn, lines: make(chan string, reportBuffer), done: make(chan struct{})}
	go r.write()
	return r, nil
}

// ended is the worker's observer.
func (r *reporter) ended(e worker.End) {
	if e.Foreign && e.Result == worker.Acked { // Ruby has told it itself
		return
	}
	result := e.Result.String()
	if e.Result == worker.Deferred && e.Reason == worker.ReasonBusy {
		result = "postponed"
	}
	select {
	case r.lines <- fmt.Sprintf("X %s %s %d %d\n", e.JID, result, e.Wait.Microseconds(), e.Run.Microseconds()):
	default: // close says so
	}
}

// write sends what there is, as soon as there is nothing more to add.
func (r *reporter) write() {
	defer close(r.done)
	w := bufio.NewWriter(r.conn)
	for line := range r.lines {
		if r.err != nil {
			continue
		}
		_, r.err = w.WriteString(line)
		if len(r.lines) == 0 && r.err == nil {
			r.err = errors.Join(r.conn.SetWriteDeadline(time.Now().Add(reportTimeout)), w.Flush())
		}
	}
}

func (r *reporter) close() error {
	close(r.lines)
	<-r.done
	if err := errors.Join(r.err, r.conn.Close()); err != nil {
		return errors.Join(errUnheard, err)
	}
	return nil
}
