package peers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/queueville/queueville/activitypub"
	"github.com/queueville/queueville/internal/deliveryjobs"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
	"github.com/queueville/queueville/worker"
	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/bench/internal/jobs"
)

// DeliveryConfig is what the delivery contender of this program is told. It puts together what `queueville work` puts together, without
// its metrics, so that it can be profiled; the suites measure the real binary.
type DeliveryConfig struct {
	Config
	Database string // Postgres URL
	PerHost  int
	Go       bool // sign with crypto/rsa
	Shared   bool // share the queue instead of owning it
}

// RunDelivery works until ctx ends.
func RunDelivery(ctx context.Context, cfg DeliveryConfig) error {
	client := redis.NewClient(&redis.Options{Addr: cfg.Redis, MaxRetries: -1, ReadTimeout: 10 * time.Second})
	defer func() { _ = client.Close() }()
	pool, err := pgxpool.New(ctx, cfg.Database)
	if err != nil {
		return fmt.Errorf("connect to postgres: %w", err)
	}
	defer pool.Close()
	var signer activitypub.Signer
	if cfg.Go {
		signer = activitypub.GoSigner{}
	}
	deliverer, err := activitypub.New(activitypub.Config{
		Version: MastodonVersion, LocalDomain: Domain, DB: pool, BaseRedis: client,
		AllowedPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, MaxIdleConns: 2048, HostLimit: cfg.PerHost, Signer: signer,
	})
	if err != nil {
		return err
	}
	hostname, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("read host name: %w", err)
	}
	identity := queues.NewIdentity(hostname, os.Getpid())
	set := worker.Config{
		Store: queues.NewStore(client, ""),
		Process: queues.ProcessInfo{
			Identity: identity, Hostname: hostname, PID: os.Getpid(), StartedAt: time.Now(), Tag: "bench", Concurrency: 25, Queues: []string{Queue},
		},
		Holder:   queues.Holder{Identity: identity, Hostname: hostname, PID: os.Getpid()},
		Handlers: []worker.Handler{deliveryjobs.NewHandler(deliverer, nil)}, Gate: deliveryjobs.NewGate(deliverer.Hosts()),
		Concurrency: cfg.Concurrency, Window: cfg.Window, MirrorBusy: true,
	}
	if cfg.Shared {
		set.Shared = []string{Queue}
	} else {
		set.Owned = []scheduler.Queue{{Name: Queue}}
	}
	w, err := worker.New(set)
	if err != nil {
		return err
	}
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- deliverer.Run(background) }()
	err = w.Run(ctx)
	end()
	return errors.Join(err, <-done)
}

// What the synthetic server is.
const (
	Domain          = "local.test"
	MastodonVersion = "4.5.0"
	Class           = jobs.Class
)
