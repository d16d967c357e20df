// Command bench measures Queueville against its peers and says which promises hold on this machine.
//
//	bench [-suite noop,delivery,memory,deadhosts,shared,full,scheduler] [-quick] [-rounds 3] [-json] [-only CONTENDER]
//
// It also is, in processes of their own, the contenders (child), the receivers (receive), the bare signature (sign), a web server (web), those who
// visit it (visit), and something that takes a processor away (burn).
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
	commands := map[string]func(context.Context, []string) error{"child": child, "receive": receive, "sign": sign, "web": webServer, "visit": visit, "burn": burn}
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
