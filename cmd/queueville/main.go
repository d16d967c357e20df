// Command queueville is a Sidekiq-compatible job engine for Mastodon. This file is flags → configuration → run; see docs/architecture.md.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// Not signal.NotifyContext: giving the signals to `work`, which takes more than one kind of stop, must not end the context.
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	release := func() { signal.Stop(signals) }
	go func() {
		<-signals
		release() // a second one ends the process
		cancel()
	}()
	code := run(ctx, release, os.Args[1:], stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr, environ: os.Environ()})
	os.Exit(code)
}
