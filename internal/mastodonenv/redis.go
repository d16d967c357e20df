package mastodonenv

import (
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// Redis says how one of Mastodon's Redises is reached.
type Redis struct {
	Network  string // "tcp" or "unix"
	Addr     string // host:port, or the socket's path; "" with Sentinel
	Username string // "" for the default user
	Password Secret
	DB       int
	TLS      bool      // rediss://
	Sentinel *Sentinel // not nil: the address is asked of these
	Source   string    // the variables that say so, e.g. "SIDEKIQ_REDIS_URL", for messages
}

// Sentinel says how Sentinels are reached.
type Sentinel struct {
	Master   string   // the name they watch the master under
	Addrs    []string // host:port each
	Username string
	Password Secret
}

// String is the address without user and password.
func (r Redis) String() string {
	scheme := "redis"
	if r.TLS {
		scheme = "rediss"
	}
	switch {
	case r.Sentinel != nil:
		return "sentinel " + r.Sentinel.Master + " at " + strings.Join(r.Sentinel.Addrs, ",") + " db " + strconv.Itoa(r.DB)
	case r.Network == "unix":
		return "unix:" + r.Addr + " db " + strconv.Itoa(r.DB)
	}
	return scheme + "://" + r.Addr + "/" + strconv.Itoa(r.DB)
}

// Same tells whether both are the same database of the same server, by their names.
func (r Redis) Same(other Redis) bool { return r.String() == other.String() }

// readRedis applies Mastodon's rules (lib/mastodon/redis_configuration.rb): per prefix a URL counts alone, else the separate variables, else
// Sentinel's; without any host or Sentinel under SIDEKIQ_ or CACHE_ the base configuration is used whole.
func (r *reader) readRedis(c *Config) {
	base, ok := r.redis("")
	if !ok {
		base = Redis{Network: "tcp", Addr: "localhost:6379", Source: "default"}
	}
	c.Redis = base
	if c.Sidekiq, ok = r.redis("SIDEKIQ_"); !ok {
		c.Sidekiq = base
	}
	if c.Cache, ok = r.redis("CACHE_"); !ok {
		c.Cache = base
	}
	c.Namespace = r.text("REDIS_NAMESPACE")
	switch {
	case c.Namespace == "":
	case c.Version.AtLeast(4, 4):
		r.errorf("REDIS_NAMESPACE", "follow Mastodon's upgrade notes for 4.4, then remove it", "Mastodon %s does not start with a Redis namespace", c.Version)
	case strings.ContainsAny(c.Namespace, " \t\r\n*?[]{}\\") || len(c.Namespace) > 100:
		r.errorf("REDIS_NAMESPACE", "use letters, digits, - and _", "has characters that mean something else in Redis")
	case !c.Version.Known():
		r.warnf("REDIS_NAMESPACE", "remove it if this is Mastodon 4.4 or later, which does not know it", "used, as Mastodon up to 4.3 does")
	}
	for _, name := range append(r.names("REDIS_CLUSTER"), append(r.names("SIDEKIQ_REDIS_CLUSTER"), r.names("CACHE_REDIS_CLUSTER")...)...) {
		r.clusterRefused(name)
	}
}

func (r *reader) clusterRefused(name string) {
	r.errorf(name, "give one server, or a master watched by Sentinel", "Redis Cluster cannot hold Sidekiq's data: its commands span keys of different slots")
}

// redis reads one prefix; false when nothing under it says where.
func (r *reader) redis(prefix string) (Redis, bool) {
	p := prefix + "REDIS_"
	if r.text(p+"URL") != "" {
		r.warnIgnored(p, "ignored, because "+p+"URL is set", "HOST", "PORT", "DB", "USER", "PASSWORD", "SENTINELS", "SENTINEL_MASTER")
		return r.redisURL(p + "URL"), true
	}
	if _, set := r.env.values[p+"URL"]; set {
		r.warnf(p+"URL", "remove the line, or write a URL", "is set to nothing, which is taken as not set")
	}
	sentinel := r.sentinel(p)
	out := Redis{Network: "tcp", Username: r.text(p + "USER"), Sentinel: sentinel, Source: p + "HOST"}
	if sentinel != nil {
		out.Source = p + "SENTINELS"
		r.warnIgnored(p, "ignored, because Sentinel tells the address", "HOST", "PORT")
	} else {
		host := r.text(p + "HOST")
		if host == "" && prefix != "" {
			r.warnIgnored(p, "ignored, because neither "+p+"HOST nor "+p+"URL is set: REDIS_* is used whole", "PORT", "DB", "USER", "PASSWORD")
			return Redis{}, false
		}
		if host == "" {
			host = "localhost"
		}
		if !validHost(host) {
			r.errorf(p+"HOST", "write a host name or an address; a URL goes into "+p+"URL", "%q is not a host", shorten(redactURL(host)))
		}
		out.Addr = net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(r.number(p+"PORT", 6379, 1, 65535)))
	}
	out.DB = r.number(p+"DB", 0, 0, 1<<20)
	out.Password = r.secret(p + "PASSWORD")
	return out, true
}

func (r *reader) warnIgnored(p, why string, suffixes ...string) {
	for _, s := range suffixes {
		if r.isSet(p + s) {
			r.warnf(p+s, "remove it, or set what is missing", "%s", why)
		}
	}
}

// sentinel reads the Sentinels; nil when there are none. Their user and password are the master's unless set apart.
func (r *reader) sentinel(p string) *Sentinel {
	addrs, master := list(r.text(p+"SENTINELS")), r.text(p+"SENTINEL_MASTER")
	switch {
	case len(addrs) == 0 && master == "":
		return nil
	case len(addrs) == 0:
		r.warnf(p+"SENTINEL_MASTER", "set "+p+"SENTINELS to host:port,host:port", "ignored, because %sSENTINELS is not set", p)
		return nil
	case master == "":
		r.warnf(p+"SENTINELS", "set "+p+"SENTINEL_MASTER to the name that they watch it under", "ignored, because %sSENTINEL_MASTER is not set", p)
		return nil
	}
	s := &Sentinel{Master: master}
	port := strconv.Itoa(r.number(p+"SENTINEL_PORT", 26379, 1, 65535))
	for _, addr := range addrs {
		host, own, err := net.SplitHostPort(addr)
		if err != nil {
			host, own = strings.Trim(addr, "[]"), port
		}
		if n, err := strconv.Atoi(own); err != nil || n < 1 || n > 65535 || !validHost(host) {
			r.errorf(p+"SENTINELS", "write host:port,host:port", "%q is not host:port", shorten(redactURL(addr)))
			continue
		}
		s.Addrs = append(s.Addrs, net.JoinHostPort(host, own))
	}
	s.Username = r.text(p + "SENTINEL_USERNAME")
	if s.Username == "" {
		s.Username = r.text(p + "USER")
	}
	if s.Password = r.secret(p + "SENTINEL_PASSWORD"); s.Password == "" {
		s.Password = Secret(r.env.values[p+"PASSWORD"])
	}
	return s
}

var errRedisURL = errors.New("is not a Redis URL")

// redisURL reads redis://, rediss:// and unix:// URLs. Problems do not quote it: it may hold a password.
func (r *reader) redisURL(name string) Redis {
	v := r.text(name)
	hint := "write redis://user:password@host:port/db (rediss:// for TLS, unix:///path?db=0), special characters percent-encoded"
	if strings.Contains(v[strings.LastIndexByte(v, '@')+1:], ",") {
		r.clusterRefused(name)
		return Redis{Network: "tcp", Source: name}
	}
	out, err := parseRedisURL(v)
	out.Source = name
	if err != nil {
		r.errorf(name, hint, "%v", err)
	}
	return out
}

func parseRedisURL(s string) (Redis, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Redis{Network: "tcp"}, errRedisURL // url's own error quotes what may be a password
	}
	out := Redis{Network: "tcp"}
	if u.User != nil {
		password, _ := u.User.Password()
		out.Username, out.Password = u.User.Username(), Secret(password)
	}
	db := strings.Trim(u.Path, "/")
	switch u.Scheme {
	case "redis", "rediss":
		out.TLS = u.Scheme == "rediss"
		host, port := u.Hostname(), u.Port()
		if host == "" {
			host = "localhost"
		}
		if port == "" {
			port = "6379"
		}
		out.Addr = net.JoinHostPort(host, port)
	case "unix":
		out.Network, out.Addr, db = "unix", u.Path, u.Query().Get("db")
		if out.Addr == "" {
			return out, errRedisURL
		}
	default:
		return out, errRedisURL
	}
	if db == "" {
		return out, nil
	}
	n, err := strconv.Atoi(db)
	if err != nil || n < 0 {
		return out, errors.New("names a database that is not a number")
	}
	out.DB = n
	return out, nil
}

func validHost(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsAny(s, "/@ \t\r\n?#%,\\")
}

// redactURL hides a value that looks as if it had a password in it.
func redactURL(s string) string {
	if strings.Contains(s, "@") {
		return redacted
	}
	return s
}
