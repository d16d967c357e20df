package redisconn

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/internal/mastodonenv"
)

// The oldest Redis with all commands we use (BLMOVE, ZADD GT, GETEX: 6.2).
const minMajor, minMinor = 6, 2

// CheckOptions say what the server is for.
type CheckOptions struct {
	Name  string // stands in each Problem, e.g. the Source of the configuration
	Cache bool   // data may be evicted: Rails' cache
}

// Check asks the server what it is and returns every problem that keeps jobs from being safe on it. A server that does not answer is a
// problem, too. ctx needs a deadline.
func Check(ctx context.Context, client redis.UniversalClient, opts CheckOptions) []mastodonenv.Problem {
	c := checker{name: opts.Name}
	text, err := client.Info(ctx).Result()
	if err != nil {
		c.errorf("is Redis up, and are address and password right?", "does not answer: %v", err)
		c.problems[len(c.problems)-1].Unreachable = true
		return c.problems
	}
	info := parseInfo(text)
	c.checkVersion(info["redis_version"])
	if info["cluster_enabled"] == "1" {
		c.errorf("give a server that is not part of a cluster", "is a Redis Cluster node, which cannot hold Sidekiq's data: its commands span keys of different slots")
	}
	if role := info["role"]; role == "slave" || role == "replica" {
		c.errorf("give the primary's address, or Sentinels", "is a replica and takes no writes")
	}
	if info["loading"] == "1" {
		c.warnf("wait until it has", "is still loading its data")
	}
	if policy := info["maxmemory_policy"]; !opts.Cache && policy != "" && policy != "noeviction" {
		c.warnf("set maxmemory-policy to noeviction, and put the cache on a server of its own (CACHE_REDIS_*)",
			"maxmemory-policy is %s, so Redis may throw jobs away when memory is short", policy)
	}
	return c.problems
}

type checker struct {
	name     string
	problems []mastodonenv.Problem
}

func (c *checker) errorf(hint, format string, args ...any) {
	c.add(mastodonenv.SeverityError, hint, fmt.Sprintf(format, args...))
}

func (c *checker) warnf(hint, format string, args ...any) {
	c.add(mastodonenv.SeverityWarning, hint, fmt.Sprintf(format, args...))
}

func (c *checker) add(severity mastodonenv.Severity, hint, what string) {
	c.problems = append(c.problems, mastodonenv.Problem{Severity: severity, Name: c.name, What: what, Hint: hint})
}

func (c *checker) checkVersion(version string) {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		c.warnf("use Redis 6.2 or later", "does not say its version")
		return
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	if err1 != nil || err2 != nil {
		c.warnf("use Redis 6.2 or later", "has a version that is not understood")
		return
	}
	if major < minMajor || major == minMajor && minor < minMinor {
		c.errorf("upgrade it", "is Redis %d.%d, and %d.%d or later is needed", major, minor, minMajor, minMinor)
	}
}

// parseInfo reads "name:value" lines.
func parseInfo(text string) map[string]string {
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info
}
