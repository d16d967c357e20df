package run

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/internal/faultproxy"
	"github.com/queueville/queueville/loadtest/simulate"
)

// ErrForeign says that a Redis that was named holds what is not of a load test.
var ErrForeign = errors.New("this Redis is somebody's")

// ours are the keys that a run leaves behind, as Redis matches them. Sidekiq's keys of processes expire by themselves.
var ours = []string{
	"queue:*", "queues", "retry", "schedule", "dead", "stat:*", "processes", "queueville:*", "loadtest:*", "sidekiq*", "uniquejobs:*", "cache:*",
	"exhausted_deliveries:*", "*:*:*",
}

// openNamed connects to a Redis that was named, which has to be empty, and puts a proxy before it if the scenario wants it to fail.
func (s *site) openNamed(ctx context.Context, o *Options) error {
	if err := s.dial(o.RedisURL); err != nil {
		return err
	}
	if err := Empty(ctx, s.client); err != nil {
		return err
	}
	if !slices.ContainsFunc(o.Scenario.Incidents, func(in simulate.Incident) bool { return in.Kind == simulate.RedisFailover }) {
		return nil
	}
	u, err := url.Parse(o.RedisURL)
	if err != nil || u.Scheme != "redis" || u.Host == "" {
		return errors.New("a Redis that is to fail needs a plain redis:// URL: a proxy stands before it")
	}
	target := u.Host
	if u.Port() == "" {
		target = net.JoinHostPort(u.Hostname(), "6379")
	}
	if s.proxy, err = faultproxy.Start(ctx, target); err != nil {
		return err
	}
	u.Host = s.proxy.Addr()
	s.workersRedis = u.String()
	_ = s.client.Close() // what is pushed goes the same way
	return s.connect(s.workersRedis)
}

func (s *site) dial(text string) error {
	s.redisURL, s.workersRedis = text, text
	return s.connect(text)
}

// connect opens the client that pushes and looks.
func (s *site) connect(text string) error {
	options, err := redis.ParseURL(text)
	if err != nil {
		return errors.New("the Redis URL is none: want redis://HOST:PORT/NUMBER") // the text may hold a password
	}
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout, options.MaxRetries = pushTimeout, callTimeout, pushTimeout, -1
	options.DialerRetries = 1 // the generator waits for nobody
	s.client = redis.NewClient(options)
	return nil
}

// Empty is nil when a Redis database holds no key at all. Else the error wraps ErrForeign and names some.
func Empty(ctx context.Context, client redis.UniversalClient) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	n, err := client.DBSize(ctx).Result()
	if err != nil {
		return fmt.Errorf("look into Redis: %w", err)
	}
	if n == 0 {
		return nil
	}
	some, _, err := client.Scan(ctx, 0, "*", 100).Result()
	if err != nil {
		return fmt.Errorf("look into Redis: %w", err)
	}
	slices.Sort(some)
	return fmt.Errorf("%w: it holds %d keys, such as %s; a load test takes an empty one", ErrForeign, n, strings.Join(some[:min(3, len(some))], ", "))
}

// clear removes what the run has left in a Redis that was named, unless a job is there that is not the run's. The job processes have ended.
func (s *site) clear(ctx context.Context) error {
	foreign := ""
	look := func(payload string) {
		if _, ok := idOf(quickJID(payload)); !ok && foreign == "" {
			foreign = quickJID(payload)
		}
	}
	var problems []error
	queues, err := s.client.SMembers(ctx, "queues").Result()
	problems = append(problems, err)
	for _, q := range queues {
		problems = append(problems, eachQueued(ctx, s.client, q, look))
	}
	for _, set := range []string{"retry", "schedule", "dead"} {
		problems = append(problems, eachMember(ctx, s.client, set, look))
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("clear Redis: %w", err)
	}
	if foreign != "" {
		return fmt.Errorf("%w: the job %q came in while the run was on; nothing has been removed", ErrForeign, foreign)
	}
	keys := s.client.Scan(ctx, 0, "*", scanChunk).Iterator()
	for keys.Next(ctx) {
		if !slices.ContainsFunc(ours, func(p string) bool {
			ok, _ := path.Match(strings.ReplaceAll(p, "/", ""), strings.ReplaceAll(keys.Val(), "/", ""))
			return ok
		}) {
			continue
		}
		if err := s.client.Unlink(ctx, keys.Val()).Err(); err != nil {
			return fmt.Errorf("clear Redis: %w", err)
		}
	}
	if err := keys.Err(); err != nil {
		return fmt.Errorf("clear Redis: %w", err)
	}
	return nil
}
