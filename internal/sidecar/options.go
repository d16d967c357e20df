// Package sidecar puts a worker together from what a person gives: flags, an optional configuration file and Mastodon's own environment
// file. It checks all of it at once and reports every problem. `work`, `status`, `release` and `demo` stand on it.
package sidecar

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/spf13/pflag"

	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/scheduler"
)

// Options are what a person can set. Each is a flag, and a key of the same name (with _ for -) in the configuration file; flags win.
type Options struct {
	Mastodon string `toml:"mastodon"` // Mastodon's directory, or an environment file
	Version  string `toml:"version"`  // Mastodon's version when the directory does not tell
	Config   string `toml:"-"`        // the configuration file
	Resolver string `toml:"resolver"` // DNS server host:port instead of the system's

	Own       []string `toml:"own"`
	Shared    []string `toml:"shared"`
	ForeignTo string   `toml:"foreign_to"`
	Canary    string   `toml:"canary"`
	OnlyHosts []string `toml:"only_host"`
	MaxRate   float64  `toml:"max_rate"`
	Shadow    bool     `toml:"shadow"`

	Full          bool     `toml:"full"`
	RubyProcesses int      `toml:"ruby_processes"`
	RubyThreads   int      `toml:"ruby_threads"`
	RubyMemoryMB  int      `toml:"ruby_memory"`
	RubyStuck     string   `toml:"ruby_stuck"`
	RubyNoPreload bool     `toml:"ruby_no_preload"`
	RubyCommand   []string `toml:"ruby_command"`

	Concurrency   int           `toml:"concurrency"`
	Limits        string        `toml:"limits"`
	CPUTarget     float64       `toml:"cpu_target"`
	Policy        string        `toml:"policy"`
	Goals         []string      `toml:"goal"`
	Behind        []string      `toml:"behind"`
	Nice          int           `toml:"nice"`
	Stated        int           `toml:"stated_concurrency"`
	PerHost       int           `toml:"per_host"`
	RetryShare    float64       `toml:"retry_share"`
	DBConnections int           `toml:"db_connections"`
	DBPriority    int           `toml:"db_priority"`
	Cluster       string        `toml:"cluster"`
	StopTimeout   time.Duration `toml:"timeout"`
	PollAverage   time.Duration `toml:"poll_average"`

	Metrics       string `toml:"metrics"`
	MetricsPublic bool   `toml:"metrics_public"`
	MetricsPrefix string `toml:"metrics_prefix"`
	LogFormat     string `toml:"log_format"`
	LogLevel      string `toml:"log_level"`
	Tag           string `toml:"tag"`
	BusyMirror    bool   `toml:"busy_mirror"`
	Check         bool   `toml:"-"`
	JSON          bool   `toml:"-"`
}

// DefaultOptions are the options with nothing set.
func DefaultOptions() *Options {
	return &Options{
		Canary: "100%", Concurrency: 512, Limits: limitsFixed, CPUTarget: 95, Nice: nice, Stated: 25, PerHost: 64, RetryShare: 100 * scheduler.DefaultRetryShare, DBConnections: 5, StopTimeout: 25 * time.Second,
		Metrics: "127.0.0.1:9395", MetricsPrefix: "ruby_", LogFormat: "auto", LogLevel: "info", BusyMirror: true,
		RubyThreads: 25, RubyMemoryMB: 2048, RubyStuck: "report",
	}
}

// BindConnection adds the flags that every command needs to reach Mastodon's servers.
func (o *Options) BindConnection(f *pflag.FlagSet) {
	f.StringVarP(&o.Mastodon, "mastodon", "m", o.Mastodon, "Mastodon's `DIR`ectory, or its environment file; without it, the process environment")
}

// Bind adds all flags of `work`.
func (o *Options) Bind(f *pflag.FlagSet) {
	o.BindConnection(f)
	f.StringVar(&o.Config, "config", o.Config, "configuration `FILE` (TOML; keys are the flags' names with _ for -)")
	f.StringVar(&o.Version, "mastodon-version", o.Version, "Mastodon's `VERSION`, when DIR does not tell")
	f.StringVar(&o.Resolver, "resolver", o.Resolver, "DNS server `HOST:PORT` to use instead of the system's")

	f.StringArrayVar(&o.Own, "own", o.Own, "`QUEUE[,WEIGHT]` that only Queueville fetches from (repeat); needs --foreign-to or --full")
	f.StringVar(&o.ForeignTo, "foreign-to", o.ForeignTo, "`QUEUE`, served by Ruby, that jobs of other classes on owned queues are moved to")
	f.StringSliceVar(&o.Shared, "shared", o.Shared, "`QUEUE`s to share with Ruby (default: push and pull, unless owned)")
	f.StringVar(&o.Canary, "canary", o.Canary, "take only this `SHARE` of what could be taken from shared queues, e.g. 5%")
	f.StringSliceVar(&o.OnlyHosts, "only-host", o.OnlyHosts, "take only deliveries to this `HOST[:PORT]` (repeat)")
	f.Float64Var(&o.MaxRate, "max-rate", o.MaxRate, "take at most so many jobs a second (0: no limit)")
	f.BoolVar(&o.Shadow, "shadow", o.Shadow, "take and send nothing: look, sign, and report what would have been done")

	f.BoolVar(&o.Full, "full", o.Full, "run everything: all seven queues, or those given with --own, with Ruby processes for what is not native")
	f.IntVar(&o.RubyProcesses, "ruby-processes", o.RubyProcesses, "with --full: Ruby processes at most (0: four times as many as there are processors)")
	f.IntVar(&o.RubyThreads, "ruby-threads", o.RubyThreads, "with --full: jobs at once in one Ruby process at most")
	f.IntVar(&o.RubyMemoryMB, "ruby-memory", o.RubyMemoryMB, "with --full: `MIB` above which a Ruby process is replaced (0: no limit)")
	f.StringVar(&o.RubyStuck, "ruby-stuck", o.RubyStuck, "with --full: report or kill jobs that run far longer than their class does")
	f.BoolVar(&o.RubyNoPreload, "ruby-no-preload", o.RubyNoPreload, "with --full: start each Ruby process by itself instead of forking it")
	f.StringSliceVar(&o.RubyCommand, "ruby-command", o.RubyCommand, "with --full: the `WORDS` that start Ruby, with commas, e.g. bundle,exec,ruby (default: found as Mastodon's units do)")

	f.IntVar(&o.Concurrency, "concurrency", o.Concurrency, "deliveries in flight at most")
	f.StringVar(&o.Limits, "limits", o.Limits, "fixed: --concurrency deliveries at once; adaptive: as many as do good, found by trial, --concurrency at most")
	f.Float64Var(&o.CPUTarget, "cpu-target", o.CPUTarget, "with adaptive limits: `PERCENT` of the host's processors that may be in use when others need them too")
	f.StringVar(&o.Policy, "policy", o.Policy, "which owned queue is next: goals, weighted or strict (default: weighted if weights are given, else strict, as Sidekiq)")
	f.StringArrayVar(&o.Goals, "goal", o.Goals, "with --policy goals: `QUEUE[/CLASS]=TIME` within which its jobs shall start, e.g. pull=10m or pull/BackupWorker=1h (repeat; *=TIME: queues that have none)")
	f.StringArrayVar(&o.Behind, "behind", o.Behind, "with --policy goals: `QUEUE/CLASS` whose jobs start when no others of the queue wait, or four times their goal has passed, e.g. pull/LinkCrawlWorker (repeat)")
	f.IntVar(&o.Nice, "nice", o.Nice, "with adaptive limits: nice value of this worker and of the Ruby it starts, 1 to 19, so that others get processors first (0: left as it is)")
	f.IntVar(&o.Stated, "stated-concurrency", o.Stated, "concurrency shown to Sidekiq; Mastodon's post clean-up scales with it")
	f.IntVar(&o.PerHost, "per-host", o.PerHost, "requests in flight to one destination at most; more than 8 only while it answers within a second, and no slower than with few")
	f.Float64Var(&o.RetryShare, "retry-share", o.RetryShare, "`PERCENT` of starts and slots that deliveries which have failed before may take while others want them (100: no bound)")
	f.IntVar(&o.DBConnections, "db-connections", o.DBConnections, "Postgres connections of deliveries at most, within the cluster's budget (0: the budget alone bounds them)")
	f.IntVar(&o.DBPriority, "db-priority", o.DBPriority, "who gets connections first when the budget is short: the higher `N`umber, -100 to 100")
	f.StringVar(&o.Cluster, "cluster", o.Cluster, "`NAME` of the workers that share the connection budget (default: LOCAL_DOMAIN)")
	f.DurationVarP(&o.StopTimeout, "timeout", "t", o.StopTimeout, "running jobs get this long at a stop")
	f.DurationVar(&o.PollAverage, "poll-average", o.PollAverage, "between two polls of the retry and schedule sets (0: processes × 5 s, as Sidekiq)")

	f.StringVar(&o.Metrics, "metrics", o.Metrics, "`ADDR`ess of /metrics, /healthz and /readyz; \"\" for none")
	f.BoolVar(&o.MetricsPublic, "metrics-public", o.MetricsPublic, "allow an address that is not loopback (there is no authentication)")
	f.StringVar(&o.MetricsPrefix, "metrics-prefix", o.MetricsPrefix, "`PREFIX` of the metric names that Mastodon's exporter uses too")
	f.StringVar(&o.LogFormat, "log-format", o.LogFormat, "auto, text or json (auto: text on a terminal)")
	f.StringVar(&o.LogLevel, "log-level", o.LogLevel, "debug, info, warn or error")
	f.StringVar(&o.Tag, "tag", o.Tag, "`TAG` shown in Sidekiq's process list")
	f.BoolVar(&o.BusyMirror, "busy-mirror", o.BusyMirror, "show running jobs to Sidekiq 6.4.1 and older too")
	f.BoolVar(&o.Check, "check", o.Check, "check everything, report every problem, start nothing")
	f.BoolVar(&o.JSON, "json", o.JSON, "with --check: report as JSON")
}

const maxConfigBytes = 1 << 20

// LoadFile reads the configuration file under the flags: a flag that was given keeps its value.
func (o *Options) LoadFile(flags *pflag.FlagSet) []mastodonenv.Problem {
	if o.Config == "" {
		return nil
	}
	problem := func(what, hint string) []mastodonenv.Problem {
		return []mastodonenv.Problem{{Severity: mastodonenv.SeverityError, File: o.Config, What: what, Hint: hint}}
	}
	f, err := os.Open(o.Config)
	if err != nil {
		return problem("cannot be read: "+err.Error(), "give the path of a TOML file, or leave --config away")
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil || len(text) > maxConfigBytes {
		return problem("cannot be read, or is over 1 MiB", "")
	}
	restore := givenFlags(flags)
	meta, err := toml.Decode(string(text), o)
	if err != nil {
		if pe, ok := errors.AsType[toml.ParseError](err); ok {
			return []mastodonenv.Problem{{Severity: mastodonenv.SeverityError, File: o.Config, Line: pe.Position.Line, What: pe.Message, Hint: "see docs/configuration.md"}}
		}
		return problem(err.Error(), "see docs/configuration.md")
	}
	restore()
	var problems []mastodonenv.Problem
	for _, key := range meta.Undecoded() {
		problems = append(problems, problem(fmt.Sprintf("unknown key %q", key.String()), "see docs/configuration.md for the keys")...)
	}
	return problems
}

// givenFlags remembers the flags that were given and returns what sets them again after the file was read over them.
func givenFlags(flags *pflag.FlagSet) (restore func()) {
	var again []func()
	flags.Visit(func(f *pflag.Flag) {
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values := slices.Clone(list.GetSlice()) // the file is decoded over what GetSlice shares
			again = append(again, func() { _ = list.Replace(values) })
			return
		}
		value := f.Value.String()
		again = append(again, func() { _ = f.Value.Set(value) })
	})
	return func() {
		for _, set := range again {
			set()
		}
	}
}

// plan is what the options mean, once they are understood.
type plan struct {
	owned     []string
	weights   map[string]int
	shared    []string
	share     int // of 10,000
	goals     scheduler.Goals
	onlyHosts []string
}

// read checks every option and reports every problem.
func (o *Options) read() (plan, []mastodonenv.Problem) {
	p := plan{weights: map[string]int{}}
	var problems []mastodonenv.Problem
	bad := func(flag, hint, format string, args ...any) {
		problems = append(problems, mastodonenv.Problem{Severity: mastodonenv.SeverityError, Name: "--" + flag, What: fmt.Sprintf(format, args...), Hint: hint})
	}
	o.readQueues(&p, bad)
	share, err := parseShare(o.Canary)
	if err != nil {
		bad("canary", "write a percentage such as 5%", "%v", err)
	}
	p.share = share
	if share < 10_000 && len(p.owned) > 0 {
		bad("canary", "share the queue instead of owning it", "a share of an owned queue would leave the rest to nobody")
	}
	if len(o.OnlyHosts) > 0 && len(p.owned) > 0 {
		bad("only-host", "share the queue instead of owning it", "on an owned queue the other hosts' deliveries would be left to nobody")
	}
	for _, h := range o.OnlyHosts {
		host := strings.ToLower(strings.TrimSpace(h))
		if host == "" || strings.ContainsAny(host, "/\"\\ ") {
			bad("only-host", "give a host name, with :PORT if the inbox URLs have one", "%q is not a host", h)
			continue
		}
		p.onlyHosts = append(p.onlyHosts, host)
	}
	atMost := func(flag string, v, hi int) {
		if v < 1 || v > hi {
			bad(flag, fmt.Sprintf("use 1 to %d", hi), "%d is out of range", v)
		}
	}
	atMost("concurrency", o.Concurrency, 20_000)
	atMost("stated-concurrency", o.Stated, 1000)
	atMost("per-host", o.PerHost, 256)
	if o.DBConnections < 0 || o.DBConnections > 1000 {
		bad("db-connections", "use 1 to 1000, or 0 for as many as the budget leaves", "%d is out of range", o.DBConnections)
	}
	if o.DBPriority < -100 || o.DBPriority > 100 {
		bad("db-priority", "use -100 to 100", "%d is out of range", o.DBPriority)
	}
	if o.StopTimeout < time.Second || o.StopTimeout > time.Hour {
		bad("timeout", "use 1s to 1h", "%v is out of range", o.StopTimeout)
	}
	if o.PollAverage < 0 {
		bad("poll-average", "", "must not be negative")
	}
	if o.MaxRate < 0 || math.IsNaN(o.MaxRate) || math.IsInf(o.MaxRate, 0) || o.MaxRate > 0 && o.MaxRate < 0.01 {
		bad("max-rate", "use a number of jobs a second, or 0 for no limit", "%v is out of range", o.MaxRate)
	}
	if math.IsNaN(o.RetryShare) || o.RetryShare < 1 || o.RetryShare > 100 {
		bad("retry-share", "use a percentage between 1 and 100", "%v is out of range", o.RetryShare)
	}
	o.readScheduling(&p, bad)
	o.readAddresses(bad)
	if !slices.Contains([]string{"auto", "text", "json"}, o.LogFormat) {
		bad("log-format", "use auto, text or json", "%q is unknown", o.LogFormat)
	}
	if _, err := parseLevel(o.LogLevel); err != nil {
		bad("log-level", "use debug, info, warn or error", "%q is unknown", o.LogLevel)
	}
	return p, problems
}

type badFunc func(flag, hint, format string, args ...any)

func (o *Options) readQueues(p *plan, bad badFunc) {
	for _, entry := range o.Own {
		name, weight := entry, 0
		if n, w, ok := strings.Cut(entry, ","); ok {
			name, weight = n, parseWeight(w, bad)
		}
		checkQueueName("own", name, bad)
		if slices.Contains(p.owned, name) {
			bad("own", "name each queue once", "queue %q is named twice", name)
			continue
		}
		p.owned = append(p.owned, name)
		p.weights[name] = weight
	}
	p.shared = o.Shared
	if o.Shared == nil {
		for _, q := range []string{"push", "pull"} {
			if !slices.Contains(p.owned, q) && q != o.ForeignTo {
				p.shared = append(p.shared, q)
			}
		}
	}
	for _, q := range p.shared {
		checkQueueName("shared", q, bad)
		if slices.Contains(p.owned, q) {
			bad("shared", "own it or share it", "queue %q is owned too", q)
		}
	}
	if o.ForeignTo != "" {
		checkQueueName("foreign-to", o.ForeignTo, bad)
		if slices.Contains(p.owned, o.ForeignTo) {
			bad("foreign-to", "name a queue that Ruby serves", "queue %q is owned, jobs would come straight back", o.ForeignTo)
		}
	}
	o.readFull(p, bad)
	if len(p.owned) > 0 && o.ForeignTo == "" && !o.Full {
		bad("own", "start a Sidekiq process with -q push_ruby instead of -q push and give --foreign-to push_ruby",
			"owned queues hold jobs that only Ruby can run, and there is no --foreign-to to move them to")
	}
	if o.ForeignTo != "" && len(p.owned) == 0 {
		bad("foreign-to", "give --own, or leave --foreign-to away", "nothing is owned, so nothing would be moved")
	}
}

func checkQueueName(flag, name string, bad badFunc) {
	ok := name != "" && len(name) <= 100
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_:.-", c) >= 0
	}
	if !ok {
		bad(flag, "use letters, digits and _ : . - as Sidekiq's interface does", "%q is not a queue name", name)
	}
}

func parseWeight(s string, bad badFunc) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 1000 {
		bad("own", "use a weight from 0 to 1000", "%q is not a weight", s)
		return 0
	}
	return n
}

// parseShare reads "5%", "0.5%" or "100%" as parts of 10,000.
func parseShare(s string) (int, error) {
	number, ok := strings.CutSuffix(strings.TrimSpace(s), "%")
	v, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil || math.IsNaN(v) || v < 0.01 || v > 100 {
		return 0, fmt.Errorf("%q is not a percentage between 0.01%% and 100%%", s)
	}
	return int(math.Round(v * 100)), nil
}

func (o *Options) readAddresses(bad badFunc) {
	if o.Metrics != "" {
		if host, _, err := net.SplitHostPort(o.Metrics); err != nil {
			bad("metrics", "write 127.0.0.1:9395", "%q is not an address", o.Metrics)
		} else if ip := net.ParseIP(host); !o.MetricsPublic && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			bad("metrics", "use 127.0.0.1, or --metrics-public if the network is yours alone", "%q is not a loopback address and the page has no authentication", o.Metrics)
		}
	}
	if o.Resolver != "" {
		if _, _, err := net.SplitHostPort(o.Resolver); err != nil {
			bad("resolver", "write 127.0.0.1:53", "%q is not an address", o.Resolver)
		}
	}
}

// hostTag is the default tag in Sidekiq's process list: Mastodon's directory name, as Sidekiq shows for its own processes.
func (o *Options) hostTag() string {
	if o.Tag != "" {
		return o.Tag
	}
	if o.Mastodon != "" {
		dir := o.Mastodon
		if info, err := os.Stat(dir); err == nil && !info.IsDir() {
			dir = filepath.Dir(dir)
		}
		return filepath.Base(dir)
	}
	return "mastodon"
}
