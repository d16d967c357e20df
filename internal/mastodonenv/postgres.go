package mastodonenv

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Postgres says how a database is reached.
type Postgres struct {
	Host     string // name, address, or the directory of a Unix socket; "" for libpq's default
	Port     int
	Database string
	User     string // "" for libpq's default: the system user
	Password Secret
	SSLMode  string            // as libpq's
	Params   map[string]string // further libpq parameters of the URL, e.g. sslrootcert
	Source   string            // the variables that say so, for messages
}

// String is the address without user and password.
func (p Postgres) String() string {
	return p.Host + ":" + strconv.Itoa(p.Port) + "/" + p.Database + " sslmode=" + p.SSLMode
}

// DSN is a libpq keyword/value string, password included: for the driver, never for a log.
func (p Postgres) DSN() string {
	var b strings.Builder
	add := func(key, value string) {
		if value == "" {
			return
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(key + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'")
	}
	add("host", p.Host)
	add("port", strconv.Itoa(p.Port))
	add("dbname", p.Database)
	add("user", p.User)
	add("password", string(p.Password))
	add("sslmode", p.SSLMode)
	for _, key := range sortedKeys(p.Params) {
		add(key, p.Params[key])
	}
	return b.String()
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// libpqParams are the parameters of a URL that go on to the driver; the others are Rails' own or concern it alone.
var libpqParams = []string{
	"sslrootcert", "sslcert", "sslkey", "sslpassword", "sslsni", "sslnegotiation", "target_session_attrs", "channel_binding", "require_auth", "krbsrvname",
}

var sslModes = []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}

func (r *reader) readPostgres(c *Config) {
	c.PreparedStatements = r.yamlBool("PREPARED_STATEMENTS")
	primary := Postgres{Host: "localhost", Port: 5432, Database: "mastodon_production", User: "mastodon", SSLMode: "prefer"}
	c.Postgres = r.postgres("", primary, &c.PreparedStatements)
	if r.isSet("REPLICA_DATABASE_URL") || r.isSet("REPLICA_DB_NAME") {
		prepared := c.PreparedStatements
		replica := r.postgres("REPLICA_", c.Postgres, &prepared)
		c.Replica = &replica
		return
	}
	for _, name := range r.names("REPLICA_DB_") {
		if name != "REPLICA_DB_TASKS" {
			r.warnf(name, "set REPLICA_DB_NAME, too, or REPLICA_DATABASE_URL", "ignored, because REPLICA_DB_NAME is not set")
		}
	}
}

// postgres reads DB_* over defaults, then what DATABASE_URL has: Rails merges them, so a URL without a port takes DB_PORT.
func (r *reader) postgres(prefix string, p Postgres, prepared *bool) Postgres {
	name := func(s string) string { return prefix + "DB_" + s }
	p.Source = prefix + "DB_*"
	override := func(target *string, variable string) {
		if v := r.text(variable); v != "" {
			*target = v
		}
	}
	// DB_HOST set to nothing is the local socket, not localhost.
	if _, ok := r.env.values[name("HOST")]; ok {
		p.Host = r.text(name("HOST"))
	}
	override(&p.Database, name("NAME"))
	override(&p.User, name("USER"))
	override(&p.SSLMode, name("SSLMODE"))
	p.Port = r.number(name("PORT"), p.Port, 1, 65535)
	if v := r.secret(name("PASS")); v != "" {
		p.Password = v
	}
	if u := prefix + "DATABASE_URL"; r.isSet(u) {
		r.mergeURL(u, &p, prepared)
	}
	if !slices.Contains(sslModes, p.SSLMode) {
		r.errorf(name("SSLMODE"), "write one of "+strings.Join(sslModes, ", "), "%q is not a mode", shorten(p.SSLMode))
		p.SSLMode = "prefer"
	}
	if !strings.HasPrefix(p.Host, "/") && p.Host != "" && !validHost(p.Host) {
		r.errorf(name("HOST"), "write a host name, an address, or the directory of a socket", "%q is not a host", shorten(redactURL(p.Host)))
	}
	return p
}

func (r *reader) mergeURL(name string, p *Postgres, prepared *bool) {
	p.Source = name
	u, err := url.Parse(r.text(name))
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql" && u.Scheme != "postgis") || u.Opaque != "" {
		// The parser's own error is not shown: it quotes parts of the URL.
		r.errorf(name, "write postgresql://user:password@host:port/database, special characters percent-encoded", "is not a PostgreSQL URL")
		return
	}
	if strings.Contains(u.Host, ",") {
		r.errorf(name, "give one host, or a name that moves with the primary", "names several hosts, which Rails does not accept")
		return
	}
	if host := u.Hostname(); host != "" {
		p.Host = host
	}
	if n, err := strconv.Atoi(u.Port()); err == nil && n > 0 && n <= 65535 {
		p.Port = n
	} else if u.Port() != "" {
		r.errorf(name, "write a port from 1 to 65535", "has a port that is none")
	}
	if db := strings.TrimPrefix(u.Path, "/"); db != "" {
		p.Database = db
	}
	if user := u.User.Username(); user != "" {
		p.User = user
	}
	if password, ok := u.User.Password(); ok {
		p.Password = Secret(password)
	}
	r.mergeQuery(u.Query(), p, prepared)
}

func (r *reader) mergeQuery(query url.Values, p *Postgres, prepared *bool) {
	params := map[string]string{} // a replica's are its own
	for key := range query {
		value := query.Get(key)
		switch {
		case key == "host" && value != "":
			p.Host = value // the usual way to name a socket's directory
		case key == "sslmode" && value != "":
			p.SSLMode = value
		case key == "prepared_statements":
			*prepared = value != "false" && value != "0"
		case slices.Contains(libpqParams, key):
			params[key] = value
		}
	}
	if len(params) > 0 {
		p.Params = params
	}
}

// yamlBool reads a variable that Mastodon puts into a YAML file, true unless it says no.
func (r *reader) yamlBool(name string) bool {
	switch v := r.text(name); strings.ToLower(v) {
	case "", "true", "yes", "on", "y":
		return true
	case "false", "no", "off", "n":
		return false
	default:
		r.warnf(name, "write true or false", "%q is neither, and counts as true", shorten(v))
		return true
	}
}
