// Command bench measures Queueville against its peers and says which promises hold on this machine.
//
//	bench [-suite noop,delivery,memory,deadhosts,shared,full] [-quick] [-rounds 3] [-json] [-only CONTENDER]
//
// It also is, in processes of their own, the contenders (child), the receivers (receive) and the bare signature (sign).
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	commands := map[string]func(context.Context, []string) error{"child": child, "receive": receive, "sign": sign}
	run, args := bench, os.Args[1:]
	if len(args) > 0 {
		if c, ok := commands[args[0]]; ok {
			run, args = c, args[1:]
		}
	}
	if err := run(ctx, args); err != nil {
		if err != flag.ErrHelp { //nolint:errorlint // flag returns it bare
			fmt.Fprintln(os.Stderr, "bench: error:", err)
		}
		os.Exit(1)
	}
}
