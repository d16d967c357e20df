package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/queueville/queueville/bench/internal/measure"
	"github.com/queueville/queueville/bench/internal/peers"
	"github.com/queueville/queueville/bench/internal/receiver"
	"github.com/queueville/queueville/bench/internal/web"
)

// child is one contender.
func child(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("child", flag.ContinueOnError)
	var cfg peers.DeliveryConfig
	name := flags.String("contender", "", "which")
	profile := flags.String("cpuprofile", "", "file")
	flags.StringVar(&cfg.Redis, "redis", "", "host:port")
	flags.StringVar(&cfg.Database, "database", "", "Postgres URL")
	flags.IntVar(&cfg.Concurrency, "concurrency", 10, "as the contender counts it")
	flags.IntVar(&cfg.Window, "window", 0, "jobs in hand at most")
	flags.IntVar(&cfg.PerHost, "per-host", 8, "requests in flight per destination")
	flags.BoolVar(&cfg.Go, "go", false, "sign with crypto/rsa")
	flags.BoolVar(&cfg.Shared, "shared", false, "share the queue")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *profile != "" {
		stop, startErr := profileCPU(*profile)
		if startErr != nil {
			return startErr
		}
		defer func() { err = errors.Join(err, stop()) }()
		go profileHeap(ctx, *profile+".heap")
	}
	if *name == "delivery" {
		return peers.RunDelivery(ctx, cfg)
	}
	return peers.Run(ctx, *name, cfg.Config)
}

// receive is the receivers' process.
func receive(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("receive", flag.ContinueOnError)
	path := flags.String("config", "", "file")
	if err := flags.Parse(args); err != nil {
		return err
	}
	text, err := os.ReadFile(*path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	var cfg receiver.Config
	if err := json.Unmarshal(text, &cfg); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	return receiver.Run(ctx, cfg, os.Stdout)
}

// sign measures bare signatures.
func sign(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("sign", flag.ContinueOnError)
	useGo := flags.Bool("go", false, "with crypto/rsa")
	threads := flags.Int("threads", 1, "at once; 0 means as many as there are CPUs")
	length := flags.Duration("length", 2*time.Second, "how long")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *threads <= 0 {
		*threads = runtime.GOMAXPROCS(0)
	}
	cpu := func() (time.Duration, error) { return measure.CPU(os.Getpid()) }
	return peers.Sign(ctx, *useGo, *threads, *length, cpu, os.Stdout)
}

// webServer is the web server that comes first.
func webServer(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("web", flag.ContinueOnError)
	cpu := flags.Duration("cpu", 7*time.Millisecond, "processor time of a request")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return web.Serve(ctx, *cpu, os.Stdout)
}

// visit visits it.
func visit(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("visit", flag.ContinueOnError)
	url := flags.String("url", "", "where")
	rate := flags.Float64("rate", 40, "visits a second")
	length := flags.Duration("for", 10*time.Second, "how long")
	seed := flags.Uint64("seed", 1, "of the moments")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return web.Open(ctx, *url, *rate, *length, *seed, os.Stdout)
}

// burn takes a processor away.
func burn(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("burn", flag.ContinueOnError)
	length := flags.Duration("for", 30*time.Second, "how long")
	if err := flags.Parse(args); err != nil {
		return err
	}
	web.Burn(ctx, *length)
	return nil
}
