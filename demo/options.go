package demo

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/queueville/queueville/loadtest"
	"github.com/queueville/queueville/loadtest/fediverse"
)

// Defaults and bounds of Options.
const (
	DefaultJobs    = 20_000
	DefaultHosts   = 200
	DefaultTimeout = 3 * time.Minute
	maxJobs        = 1_000_000
	defaultWidth   = 80
)

// Errors that Run ends with although it ran to its end. The summary has been printed then.
var (
	// ErrLost: at least one job is neither delivered nor ended nor in Redis, or is there twice.
	ErrLost = errors.New("jobs lost")
	// ErrBadSignature: a receiver saw a signature or digest that was wrong, or none.
	ErrBadSignature = errors.New("bad signatures")
	// ErrUnfinished: time was up before every job had its first outcome.
	ErrUnfinished = errors.New("not every job was tried in time")
)

// Options say how large a demo is and where its words go.
type Options struct {
	Jobs  int    // deliveries; 0 means 20,000
	Hosts int    // instances; 0 means 200, at least one for each class
	Seed  uint64 // draws activities, reach and failures; 0 means 1

	JSON bool      // the summary as one JSON object on Out, and nothing else there
	Out  io.Writer // gets the summary. Required
	Err  io.Writer // gets progress. Required

	// IsTerminal: Err is a terminal: progress bar and colours instead of a line every few seconds.
	IsTerminal    bool
	OutIsTerminal bool // Out is one too: colours in the summary
	NoColor       bool // no colours even on a terminal (NO_COLOR)
	Width         int  // columns of the terminal; 0 means 80

	// Timeout ends the delivering, however far it is; 0 means three minutes.
	Timeout time.Duration
	// KeepDir is where the server's files (.env.production, worker.log) are made and stay; their secrets are of servers that are gone by
	// then. "" means a temporary directory that is removed at the end, unless jobs were lost: then it stays and is named.
	KeepDir string
	// Classes of hosts; nil means loadtest.DefaultClasses().
	Classes []loadtest.Class

	settle time.Duration // see settleTime; tests have less of it
}

// withDefaults fills in what was left out, and says everything that is wrong.
func (o Options) withDefaults() (Options, error) {
	setDefault := func(value *int, def int) {
		if *value == 0 {
			*value = def
		}
	}
	setDefault(&o.Jobs, DefaultJobs)
	setDefault(&o.Hosts, DefaultHosts)
	setDefault(&o.Width, defaultWidth)
	if o.Seed == 0 {
		o.Seed = 1
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.settle == 0 {
		o.settle = settleTime
	}
	if o.Classes == nil {
		o.Classes = loadtest.DefaultClasses()
	}
	var problems []error
	if o.Jobs < 1 || o.Jobs > maxJobs {
		problems = append(problems, fmt.Errorf("%d jobs, want 1 to %d", o.Jobs, maxJobs))
	}
	if o.Hosts < len(o.Classes) || o.Hosts > fediverse.MaxHosts {
		problems = append(problems, fmt.Errorf("%d hosts, want %d (one of each kind) to %d", o.Hosts, len(o.Classes), fediverse.MaxHosts))
	}
	if o.Out == nil || o.Err == nil {
		problems = append(problems, errors.New("nowhere to write to"))
	}
	if o.Timeout < 0 {
		problems = append(problems, fmt.Errorf("timeout %v, want it positive", o.Timeout))
	}

	return o, errors.Join(problems...)
}

// Server is the Mastodon server that a worker is started beside.
type Server struct {
	Dir     string // holds .env.production (0600) and lib/mastodon/version.rb, as Mastodon's own directory does
	EnvFile string // Dir/.env.production
	Version string // of Mastodon: 4.7.0

	RedisURL    string   // of all three Redises; in EnvFile too
	DatabaseURL string   // in EnvFile too
	Queues      []string // that the worker is to own: push and pull. Nothing but native classes is on them

	// What cannot stand in a .env.production: names and certificates of the synthetic fediverse.
	Resolver *net.Resolver
	RootCAs  *x509.CertPool

	// Log goes to Dir/worker.log: the terminal belongs to the demo.
	Log *slog.Logger
}

// Worker is a running worker.
type Worker interface {
	// Stats is cheap and safe for concurrent use; it is asked several times a second, also after Stop.
	Stats() WorkerStats
	// Stop takes no new jobs, lets running ones finish within the worker's own timeout and gives the rest back. It returns when the
	// worker has ended. It is called once.
	Stop(ctx context.Context) error
	// Done is closed when the worker has ended, by itself or by Stop.
	Done() <-chan struct{}
}

// StartFunc starts a worker. ctx bounds the worker's life as well: its end is a stop without grace.
type StartFunc func(ctx context.Context, server Server) (Worker, error)

// WorkerStats is what a worker says of itself. Counters only grow. Fields a worker does not know stay zero.
type WorkerStats struct {
	Delivered   uint64 // answered 2xx
	Retrying    uint64 // failed, stored for a retry
	Held        uint64 // stored without having been tried
	GivenUp     uint64 // ended by the host's answer
	Unavailable uint64 // ended because the host is in unavailable_domains
	InFlight    int    // fetched and without outcome

	Signer string // e.g. "OpenSSL 3.0.15" or "Go crypto/rsa"
	// Request times as the worker saw them, connecting included; 0 when it does not measure them.
	RequestP50, RequestP99 time.Duration
}
