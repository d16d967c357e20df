// Package redisconn makes a go-redis client of Mastodon's configuration and looks whether the server is fit for a worker.
// The client never sends a command twice by itself: a fetch that Redis has carried out must not be repeated because its reply was lost.
package redisconn

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/queueville/queueville/internal/mastodonenv"
)

// Options are what the configuration does not say. The zero value is good.
type Options struct {
	ClientName  string        // shown by CLIENT LIST; "" is "queueville"
	PoolSize    int           // connections at most; 0 is 10. Blocking commands hold one each
	DialTimeout time.Duration // 0 is 5 s
	Timeout     time.Duration // for reading and for writing; 0 is 5 s. A blocking command adds its own
	ReadBuffer  int           // bytes per connection; 0 is go-redis' own 32 KiB. Replies with many payloads cost fewer reads with more
	TLS         *tls.Config   // for rediss://; nil is the system's roots and TLS 1.2 or later
}

// Open makes a client; it connects when the first command is sent. With Sentinels it asks them for the master and follows a fail-over.
// Every command ends with its context. Close the client at the end.
func Open(cfg mastodonenv.Redis, opts Options) (redis.UniversalClient, error) {
	dial, timeout := cmp.Or(opts.DialTimeout, 5*time.Second), cmp.Or(opts.Timeout, 5*time.Second)
	name := clientName(opts.ClientName)
	if cfg.Sentinel != nil {
		if len(cfg.Sentinel.Addrs) == 0 || cfg.Sentinel.Master == "" {
			return nil, errors.New("open redis: Sentinel needs a master's name and an address")
		}
		return redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: cfg.Sentinel.Master, SentinelAddrs: cfg.Sentinel.Addrs,
			SentinelUsername: cfg.Sentinel.Username, SentinelPassword: string(cfg.Sentinel.Password),
			Username: cfg.Username, Password: string(cfg.Password), DB: cfg.DB, TLSConfig: tlsConfig(cfg, opts.TLS),
			ClientName: name, MaxRetries: -1, DialTimeout: dial, DialerRetries: 1, ReadTimeout: timeout, WriteTimeout: timeout,
			ContextTimeoutEnabled: true, PoolSize: cmp.Or(opts.PoolSize, 10), ReadBufferSize: opts.ReadBuffer, DisableIdentity: true,
		}), nil
	}
	if cfg.Addr == "" {
		return nil, errors.New("open redis: no address")
	}
	return redis.NewClient(&redis.Options{
		Network: cfg.Network, Addr: cfg.Addr,
		Username: cfg.Username, Password: string(cfg.Password), DB: cfg.DB, TLSConfig: tlsConfig(cfg, opts.TLS),
		ClientName: name, MaxRetries: -1, DialTimeout: dial, DialerRetries: 1, ReadTimeout: timeout, WriteTimeout: timeout,
		ContextTimeoutEnabled: true, PoolSize: cmp.Or(opts.PoolSize, 10), ReadBufferSize: opts.ReadBuffer, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}), nil
}

// tlsConfig is nil without TLS.
func tlsConfig(cfg mastodonenv.Redis, base *tls.Config) *tls.Config {
	if !cfg.TLS {
		return nil
	}
	if base == nil {
		base = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	c := base.Clone()
	if host, _, err := net.SplitHostPort(cfg.Addr); err == nil && c.ServerName == "" {
		c.ServerName = host
	}
	return c
}

// clientName: Redis refuses spaces and what is not printable ASCII.
func clientName(s string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '-'
		}
		return r
	}, cmp.Or(s, "queueville"))
}

// logger gives go-redis' own messages to slog.
type logger struct{ log *slog.Logger }

// Printf logs at debug level: what it says comes back as an error as well.
func (l logger) Printf(ctx context.Context, format string, args ...any) {
	if l.log.Enabled(ctx, slog.LevelDebug) {
		l.log.DebugContext(ctx, "redis client", slog.String("detail", fmt.Sprintf(format, args...)))
	}
}

// SetLogger sends the messages that go-redis prints to standard error to log instead, at debug level. It is for the whole process and
// not safe to call while a client is in use: call it once at start.
func SetLogger(log *slog.Logger) { redis.SetLogger(logger{log}) }
