// Package redistest gives tests a real Redis: one server per test binary, started when the first test asks, with a database number for
// each test; or a server of a test's own. It starts no goroutines. The shared server ends with the test binary.
//
// A machine without redis-server skips the test; under CI=true the test fails.
package redistest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/internal/throwaway"
)

// databases is how many tests of one binary can hold a database at the same time.
const databases = 256

const timeout = 30 * time.Second // for starting a server and for flushing a database

// shared is the binary's server and its unused database numbers.
var shared = struct {
	sync.Mutex
	server *throwaway.RedisServer
	err    error
	free   chan int
}{}

// Start starts a server of the test's own, with more options of redis-server if given, and stops it when the test ends.
func Start(tb testing.TB, args ...string) *throwaway.RedisServer {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), timeout)
	defer cancel()
	s, err := throwaway.Redis(ctx, throwaway.RedisConfig{Args: args})
	Need(tb, err)
	tb.Cleanup(func() {
		if err := s.Stop(); err != nil {
			tb.Errorf("stop redis-server: %v", err)
		}
	})
	return s
}

// Client returns a client to an empty database of the test's own on the shared server. Like the worker's, it never sends a command twice.
func Client(tb testing.TB) *redis.Client {
	tb.Helper()
	_, _, c := DB(tb)
	return c
}

// URL returns redis://127.0.0.1:port/db of an empty database of the test's own on the shared server.
func URL(tb testing.TB) string {
	tb.Helper()
	addr, db, _ := DB(tb)
	return "redis://" + addr + "/" + strconv.Itoa(db)
}

// DB checks an empty database out of the shared server; it is emptied again when the test ends. Settings and FLUSHALL belong on a
// server of the test's own (Start), for other tests use this one at the same time.
func DB(tb testing.TB) (addr string, db int, client *redis.Client) {
	tb.Helper()
	server, free, err := sharedServer(tb.Context())
	Need(tb, err)
	select {
	case db = <-free:
	default:
		tb.Fatalf("all %d databases of the shared redis-server are in use", databases)
	}
	client = NewClient(server.Addr(), db)
	flush(tb, client)
	tb.Cleanup(func() {
		flush(tb, client)
		if err := client.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
			tb.Errorf("close redis client: %v", err)
		}
		free <- db
	})
	return server.Addr(), db, client
}

// NewClient makes a client as the worker's are: no command is ever sent twice, and every one ends with its context.
func NewClient(addr string, db int) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: addr, DB: db, MaxRetries: -1, ContextTimeoutEnabled: true, DisableIdentity: true,
		DialTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
	})
}

// Need ends the test if err is not nil: skipped for a missing binary, failed under CI=true and for everything else.
func Need(tb testing.TB, err error) {
	tb.Helper()
	if err == nil {
		return
	}
	if missing, ok := errors.AsType[*throwaway.MissingError](err); ok {
		if os.Getenv("CI") != "true" {
			tb.Skipf("%v (%s)", err, missing.Hint())
		}
		tb.Fatalf("%v (%s)", err, missing.Hint())
	}
	tb.Fatal(err)
}

// Stop ends the shared server before the test binary does; for a TestMain that wants nothing left. A later test starts another.
func Stop() error {
	shared.Lock()
	defer shared.Unlock()
	server := shared.server
	shared.server, shared.free, shared.err = nil, nil, nil
	if server == nil {
		return nil
	}
	return server.Stop()
}

func sharedServer(ctx context.Context) (*throwaway.RedisServer, chan int, error) {
	shared.Lock()
	defer shared.Unlock()
	if shared.server != nil || shared.err != nil {
		return shared.server, shared.free, shared.err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	server, err := throwaway.Redis(ctx, throwaway.RedisConfig{Args: []string{"--databases", strconv.Itoa(databases)}})
	if err != nil {
		shared.err = fmt.Errorf("shared redis-server: %w", err)
		return nil, nil, shared.err
	}
	free := make(chan int, databases)
	for n := range databases {
		free <- n
	}
	shared.server, shared.free = server, free
	return server, free, nil
}

// flush empties the client's database with a connection of its own: the test may have closed the client.
func flush(tb testing.TB, client *redis.Client) {
	tb.Helper()
	c := NewClient(client.Options().Addr, client.Options().DB)
	defer c.Close() //nolint:errcheck // nothing is buffered in it
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), timeout)
	defer cancel()
	if err := c.FlushDB(ctx).Err(); err != nil {
		tb.Errorf("flush database %d: %v", client.Options().DB, err)
	}
}
