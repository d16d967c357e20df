package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/queueville/queueville/activitypub"
)

// version is set by the linker (-X main.version=…).
var version = "0.1.0-dev"

// Exit codes, as listed in docs/exit-codes.md.
const (
	exitOK          = 0
	exitFailure     = 1 // something went wrong while running
	exitUsage       = 2 // unknown command, flag or argument
	exitConfig      = 3 // the configuration is wrong; every problem has been listed
	exitUnavailable = 4 // Redis, Postgres or a needed program cannot be reached
	exitLost        = 5 // demo: a job was lost or a signature was wrong
	exitInterrupted = 130
)

// exitError is an error with its exit code and, if it helps, what to do.
type exitError struct {
	code int
	err  error
	hint string
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// stdio is what a command may touch of the outside, so that whole commands run in a test.
type stdio struct {
	in       io.Reader
	out, err io.Writer
	environ  []string
}

// terminal says whether w is a terminal, and colours and progress bars are welcome.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// run executes one command line and returns the exit code. release gives SIGINT and SIGTERM back to the command.
func run(ctx context.Context, release func(), args []string, io stdio) int {
	root := newRoot(io, release) //nolint:contextcheck // cobra hands the context to each command
	root.SetArgs(negativeLast(args))
	root.SetIn(io.in)
	root.SetOut(io.out)
	root.SetErr(io.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code, hint := exitUsage, "queueville --help lists the commands"
	if e, ok := errors.AsType[*exitError](err); ok {
		code, hint = e.code, e.hint
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		code, hint = exitInterrupted, ""
	}
	_, _ = fmt.Fprintf(io.err, "queueville: error: %v\n", err)
	if hint != "" {
		_, _ = fmt.Fprintf(io.err, "queueville: hint: %s\n", hint)
	}
	return code
}

func newRoot(io stdio, release func()) *cobra.Command {
	root := &cobra.Command{
		Use:   "queueville",
		Short: "A Sidekiq-compatible job engine for Mastodon",
		Long: `Queueville takes over Mastodon's background work: one worker a host, no thread counts.

Start with  queueville demo                  to see it at work on throwaway servers,
then        queueville work --check          to see whether your configuration is understood,
and         queueville work --shadow         to see what it would do, without taking a job.`,
		Example: `  queueville demo
  queueville work --mastodon /home/mastodon/live
  queueville status --mastodon /home/mastodon/live`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cobra.AddTemplateFunc("buildInfo", buildInfo)
	root.SetVersionTemplate("queueville {{.Version}} ({{buildInfo}})\n")
	root.AddCommand(newWork(io, release), newStatus(io), newExplain(io), newRelease(io), newBudget(io), newDemo(io), newLoadtest(io, release))
	return root
}

// buildInfo says what this binary was built with and how it will sign on this machine.
func buildInfo() string {
	_, signer := activitypub.NewSigner()
	return runtime.Version() + ", " + runtime.GOOS + "/" + runtime.GOARCH + ", signs with " + signer
}

func configError(err error) error {
	return &exitError{code: exitConfig, err: err, hint: "queueville work --check lists every problem at once"}
}

func unavailable(err error, hint string) error {
	return &exitError{code: exitUnavailable, err: err, hint: hint}
}

func failure(err error) error { return &exitError{code: exitFailure, err: err} }
