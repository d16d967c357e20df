package mastodonenv_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/queueville/queueville/internal/mastodonenv"
)

// base is enough of an environment to have no problem.
var base = map[string]string{
	"LOCAL_DOMAIN": "example.social", "ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY": "geheimA",
	"ACTIVE_RECORD_ENCRYPTION_DETERMINISTIC_KEY": "geheimB", "ACTIVE_RECORD_ENCRYPTION_KEY_DERIVATION_SALT": "geheimC",
}

// config makes a Config of base and more variables, all from the process environment.
func config(t *testing.T, version string, more map[string]string) (*mastodonenv.Config, []mastodonenv.Problem) {
	t.Helper()
	dir := t.TempDir()
	var file strings.Builder
	for name, value := range base {
		if _, ok := more[name]; !ok {
			fmt.Fprintf(&file, "%s=%s\n", name, value)
		}
	}
	write(t, dir, ".env.production", file.String())
	if version != "" {
		n := strings.Split(version, ".")
		write(t, dir, "lib/mastodon/version.rb", fmt.Sprintf("def major\n%s\nend\ndef minor\n%s\nend\ndef patch\n%s\nend\n", n[0], n[1], n[2]))
	}
	var environ []string
	for name, value := range more {
		environ = append(environ, name+"="+value)
	}
	env, problems := mastodonenv.Load(dir, environ)
	c, found := env.Config()
	return c, append(problems, found...)
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRedisSelection(t *testing.T) {
	const def = "redis://localhost:6379/0"
	tests := map[string]struct {
		env                  map[string]string
		base, sidekiq, cache string
		problems             []string // the names, each with its severity
	}{
		"nothing set":               {nil, def, def, def, nil},
		"base host":                 {map[string]string{"REDIS_HOST": "r", "REDIS_DB": "2"}, "redis://r:6379/2", "redis://r:6379/2", "redis://r:6379/2", nil},
		"sidekiq apart":             {map[string]string{"SIDEKIQ_REDIS_HOST": "s", "SIDEKIQ_REDIS_PORT": "7000"}, def, "redis://s:7000/0", def, nil},
		"cache URL":                 {map[string]string{"CACHE_REDIS_URL": "rediss://:p@c/3"}, def, def, "rediss://c:6379/3", nil},
		"sidekiq DB alone":          {map[string]string{"SIDEKIQ_REDIS_DB": "1"}, def, def, def, []string{"warning SIDEKIQ_REDIS_DB"}},
		"URL beats host":            {map[string]string{"REDIS_URL": "redis://u", "REDIS_HOST": "h"}, "redis://u:6379/0", "redis://u:6379/0", "redis://u:6379/0", []string{"warning REDIS_HOST"}},
		"URL without host":          {map[string]string{"REDIS_URL": "redis:///4"}, "redis://localhost:6379/4", "redis://localhost:6379/4", "redis://localhost:6379/4", nil},
		"empty URL":                 {map[string]string{"SIDEKIQ_REDIS_URL": ""}, def, def, def, []string{"warning SIDEKIQ_REDIS_URL"}},
		"socket":                    {map[string]string{"REDIS_URL": "unix:///run/redis.sock?db=5"}, "unix:/run/redis.sock db 5", "unix:/run/redis.sock db 5", "unix:/run/redis.sock db 5", nil},
		"IPv6":                      {map[string]string{"REDIS_HOST": "::1"}, "redis://[::1]:6379/0", "redis://[::1]:6379/0", "redis://[::1]:6379/0", nil},
		"sentinel for sidekiq":      {map[string]string{"SIDEKIQ_REDIS_SENTINELS": "a, b:7", "SIDEKIQ_REDIS_SENTINEL_MASTER": "m"}, def, "sentinel m at a:26379,b:7 db 0", def, nil},
		"sentinel and URL":          {map[string]string{"REDIS_SENTINELS": "a", "REDIS_SENTINEL_MASTER": "m", "REDIS_URL": "redis://u"}, "redis://u:6379/0", "redis://u:6379/0", "redis://u:6379/0", []string{"warning REDIS_SENTINELS", "warning REDIS_SENTINEL_MASTER"}},
		"sentinel without master":   {map[string]string{"REDIS_SENTINELS": "a"}, def, def, def, []string{"warning REDIS_SENTINELS"}},
		"sentinel port":             {map[string]string{"REDIS_SENTINELS": "a", "REDIS_SENTINEL_MASTER": "m", "REDIS_SENTINEL_PORT": "9", "REDIS_DB": "3"}, "sentinel m at a:9 db 3", "sentinel m at a:9 db 3", "sentinel m at a:9 db 3", nil},
		"bad port":                  {map[string]string{"REDIS_PORT": "x"}, def, def, def, []string{"error REDIS_PORT"}},
		"several hosts":             {map[string]string{"REDIS_URL": "redis://a:1,b:2"}, "redis:///0", "redis:///0", "redis:///0", []string{"error REDIS_URL"}},
		"cluster variable":          {map[string]string{"SIDEKIQ_REDIS_CLUSTER_NODES": "a:1"}, def, def, def, []string{"error SIDEKIQ_REDIS_CLUSTER_NODES"}},
		"not a URL":                 {map[string]string{"REDIS_URL": "redis://:geheim@x:geheim/0"}, "redis:///0", "redis:///0", "redis:///0", []string{"error REDIS_URL"}},
		"database of the URL":       {map[string]string{"REDIS_URL": "redis://x/zero"}, "redis://x:6379/0", "redis://x:6379/0", "redis://x:6379/0", []string{"error REDIS_URL"}},
		"a URL in the host's place": {map[string]string{"REDIS_HOST": "redis://:geheim@x"}, "redis://[redis://:geheim@x]:6379/0", "", "", []string{"error REDIS_HOST"}},
		"quotes from docker":        {map[string]string{"REDIS_HOST": `"r"`}, "redis://r:6379/0", "redis://r:6379/0", "redis://r:6379/0", []string{"warning REDIS_HOST"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c, problems := config(t, "4.5.0", test.env)
			if test.sidekiq != "" && (c.Redis.String() != test.base || c.Sidekiq.String() != test.sidekiq || c.Cache.String() != test.cache) {
				t.Errorf("got %v, %v, %v, want %v, %v, %v", c.Redis, c.Sidekiq, c.Cache, test.base, test.sidekiq, test.cache)
			}
			compareNames(t, problems, test.problems)
		})
	}
}

func compareNames(t *testing.T, problems []mastodonenv.Problem, want []string) {
	t.Helper()
	var got []string
	for _, p := range problems {
		got = append(got, string(p.Severity)+" "+p.Name)
		if p.What == "" || p.Hint == "" || strings.Contains(p.String(), "geheim") {
			t.Errorf("problem says too little or too much: %v", p)
		}
	}
	if strings.Join(got, ";") != strings.Join(want, ";") {
		t.Errorf("problems %q, want %q", problems, want)
	}
}

func TestRedisCredentials(t *testing.T) {
	c, problems := config(t, "4.5.0", map[string]string{
		"REDIS_URL": "redis://us%40er:p%2Fw@h/1", "SIDEKIQ_REDIS_HOST": "s", "SIDEKIQ_REDIS_USER": "u", "SIDEKIQ_REDIS_PASSWORD": " p ",
		"CACHE_REDIS_SENTINELS": "a", "CACHE_REDIS_SENTINEL_MASTER": "m", "CACHE_REDIS_PASSWORD": "pw", "CACHE_REDIS_SENTINEL_USERNAME": "su",
	})
	compareNames(t, problems, nil)
	if c.Redis.Username != "us@er" || c.Redis.Password != "p/w" {
		t.Errorf("base = %q %q", c.Redis.Username, string(c.Redis.Password))
	}
	if c.Sidekiq.Username != "u" || c.Sidekiq.Password != " p " {
		t.Errorf("sidekiq = %q %q", c.Sidekiq.Username, string(c.Sidekiq.Password))
	}
	if s := c.Cache.Sentinel; s == nil || s.Username != "su" || s.Password != "pw" {
		t.Errorf("sentinel = %+v", s)
	}
}

func TestPostgres(t *testing.T) {
	const def = "host='localhost' port='5432' dbname='mastodon_production' user='mastodon' sslmode='prefer'"
	tests := map[string]struct {
		env      map[string]string
		want     string
		replica  string
		simple   bool // prepared statements off
		problems []string
	}{
		"nothing set":        {nil, def, "", false, nil},
		"variables":          {map[string]string{"DB_HOST": "h", "DB_PORT": "1", "DB_NAME": "n", "DB_USER": "u", "DB_PASS": `p'\x`, "DB_SSLMODE": "verify-full"}, `host='h' port='1' dbname='n' user='u' password='p\'\\x' sslmode='verify-full'`, "", false, nil},
		"socket":             {map[string]string{"DB_HOST": "/var/run/postgresql"}, strings.Replace(def, "localhost", "/var/run/postgresql", 1), "", false, nil},
		"default socket":     {map[string]string{"DB_HOST": ""}, strings.Replace(def, "host='localhost' ", "", 1), "", false, nil},
		"URL merges":         {map[string]string{"DATABASE_URL": "postgresql://u:p%40@h/n?sslmode=require&pool=5&sslrootcert=/ca", "DB_PORT": "6"}, "host='h' port='6' dbname='n' user='u' password='p@' sslmode='require' sslrootcert='/ca'", "", false, nil},
		"URL with a socket":  {map[string]string{"DATABASE_URL": "postgres:///n?host=/tmp&prepared_statements=false"}, "host='/tmp' port='5432' dbname='n' user='mastodon' sslmode='prefer'", "", true, nil},
		"bad URL":            {map[string]string{"DATABASE_URL": "postgres://u:geheim@h:geheim/n"}, def, "", false, []string{"error DATABASE_URL"}},
		"other URL":          {map[string]string{"DATABASE_URL": "mysql://h/n"}, def, "", false, []string{"error DATABASE_URL"}},
		"bad mode":           {map[string]string{"DB_SSLMODE": "on"}, def, "", false, []string{"error DB_SSLMODE"}},
		"PgBouncer":          {map[string]string{"PREPARED_STATEMENTS": "false"}, def, "", true, nil},
		"neither":            {map[string]string{"PREPARED_STATEMENTS": "0"}, def, "", false, []string{"warning PREPARED_STATEMENTS"}},
		"replica":            {map[string]string{"REPLICA_DB_NAME": "n", "REPLICA_DB_HOST": "r"}, def, "host='r' port='5432' dbname='n' user='mastodon' sslmode='prefer'", false, nil},
		"replica by URL":     {map[string]string{"REPLICA_DATABASE_URL": "postgres://r/x"}, def, "host='r' port='5432' dbname='x' user='mastodon' sslmode='prefer'", false, nil},
		"half a replica":     {map[string]string{"REPLICA_DB_HOST": "r"}, def, "", false, []string{"warning REPLICA_DB_HOST"}},
		"several hosts":      {map[string]string{"DATABASE_URL": "postgres://a,b/n"}, def, "", false, []string{"error DATABASE_URL"}},
		"port out of bounds": {map[string]string{"DB_PORT": "70000"}, def, "", false, []string{"error DB_PORT"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c, problems := config(t, "4.5.0", test.env)
			if got := c.Postgres.DSN(); got != test.want {
				t.Errorf("DSN = %s, want %s", got, test.want)
			}
			replica := ""
			if c.Replica != nil {
				replica = c.Replica.DSN()
			}
			if replica != test.replica {
				t.Errorf("replica = %s, want %s", replica, test.replica)
			}
			if c.PreparedStatements == test.simple {
				t.Errorf("PreparedStatements = %v", c.PreparedStatements)
			}
			compareNames(t, problems, test.problems)
		})
	}
}

func TestOtherVariables(t *testing.T) {
	c, problems := config(t, "4.7.1", map[string]string{
		"LOCAL_DOMAIN": "Bücher.example:3000", "WEB_DOMAIN": "WWW.example", "ALTERNATE_DOMAINS": "a.example, b.example",
		"ALLOWED_PRIVATE_ADDRESSES": "10.0.0.5, 192.168.1.9/16\tfd00::/8 ::ffff:172.16.0.1", "http_proxy": "http://u:geheim@p:8080", "http_hidden_proxy": "http://127.0.0.1:9050",
		"ALLOW_ACCESS_TO_HIDDEN_SERVICE": "true", "MAX_REQUEST_POOL_SIZE": "64", "DISABLE_FOLLOWERS_SYNCHRONIZATION": "true",
		"MASTODON_SIDEKIQ_READY_FILENAME": "sidekiq_ready", "RAILS_ENV": "production", "EXPERIMENTAL_FEATURES": "fasp, x",
	})
	compareNames(t, problems, nil)
	got := fmt.Sprint(
		c.LocalDomain, " ", c.WebDomain, c.AlternateDomains, c.AllowedPrivateAddresses, c.HTTPProxy.Host, c.HTTPHiddenProxy.Host,
		c.AllowHiddenServices, c.MaxRequestPoolSize, c.DisableFollowersSynchronization, c.ReadyFilename, c.ExperimentalFeatures, c.Encryption.Complete(), c.Version,
	)
	want := "xn--bcher-kva.example:3000 www.example[a.example b.example] [10.0.0.5/32 192.168.0.0/16 fd00::/8 172.16.0.1/32]p:8080127.0.0.1:9050" +
		"true 64 truesidekiq_ready[fasp x] true 4.7.1"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestEveryProblemAtOnce(t *testing.T) {
	_, problems := config(t, "4.4.0", map[string]string{
		"LOCAL_DOMAIN": "https://example.social/", "WEB_DOMAIN": "a b", "ALTERNATE_DOMAINS": "ok.example,no/", "RAILS_ENV": "development",
		"REDIS_NAMESPACE": "ns", "REDIS_DB": "-1", "ALLOWED_PRIVATE_ADDRESSES": "10.0.0.0/33 x", "http_proxy": "socks5://geheim",
		"HTTP_PROXY": "x", "MAX_REQUEST_POOL_SIZE": "0", "ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY": "", "MASTODON_SIDEKIQ_READY_FILENAME": "../x",
	})
	compareNames(t, problems, []string{
		"error RAILS_ENV", "error REDIS_DB", "error REDIS_NAMESPACE", "error LOCAL_DOMAIN", "error WEB_DOMAIN", "error ALTERNATE_DOMAINS",
		"error ALLOWED_PRIVATE_ADDRESSES", "error ALLOWED_PRIVATE_ADDRESSES", "error http_proxy", "error MAX_REQUEST_POOL_SIZE",
		"error ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY", "error MASTODON_SIDEKIQ_READY_FILENAME",
	})
}

func TestNamespaceByVersion(t *testing.T) {
	for version, want := range map[string][]string{"4.3.2": nil, "": {"warning REDIS_NAMESPACE"}, "4.4.0": {"error REDIS_NAMESPACE"}} {
		c, problems := config(t, version, map[string]string{"REDIS_NAMESPACE": "ns"})
		if c.Namespace != "ns" {
			t.Errorf("Namespace = %q", c.Namespace)
		}
		compareNames(t, problems, want)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, ".env.production", "LOCAL_DOMAIN=file\nREDIS_HOST=file\nDB_PASS=\"$SECRET\"\nbad line\n")
	write(t, dir, ".env.production.local", "X=1")
	for _, path := range []string{dir, filepath.Join(dir, ".env.production")} {
		env, problems := mastodonenv.Load(path, []string{"LOCAL_DOMAIN=process", "REDIS_HOST=", "=odd", "SECRET=s3"})
		if len(problems) != 2 || problems[0].Line != 4 || !strings.HasSuffix(problems[1].File, ".local") {
			t.Errorf("problems = %v", problems)
		}
		for name, want := range map[string]string{"LOCAL_DOMAIN": "process", "REDIS_HOST": "", "DB_PASS": "s3"} {
			if got, ok := env.Lookup(name); got != want || !ok {
				t.Errorf("Lookup(%s) = %q, %v, want %q", name, got, ok, want)
			}
		}
	}
	if _, problems := mastodonenv.Load(t.TempDir(), nil); mastodonenv.Errors(problems) == nil {
		t.Error("a directory without .env.production is no error")
	}
	if _, problems := mastodonenv.Load(t.TempDir(), []string{"LOCAL_DOMAIN=x"}); len(problems) != 1 || mastodonenv.Errors(problems) != nil {
		t.Errorf("in a container: %v, want one warning", problems)
	}
	if _, problems := mastodonenv.Load("/dev/zero", nil); mastodonenv.Errors(problems) == nil {
		t.Error("a device is no error")
	}
	if _, problems := mastodonenv.Load("", nil); len(problems) != 0 {
		t.Errorf("no file: %v", problems)
	}
}

func TestProblemHasItsPlace(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, ".env.production", "LOCAL_DOMAIN=x.example\n\nDB_PORT=zz\n")
	env, _ := mastodonenv.Load(dir, nil)
	_, problems := env.Config()
	want := filepath.Join(dir, ".env.production") + `:3: DB_PORT: "zz" is not a number in range; write a whole number from 1 to 65535`
	if len(problems) == 0 || problems[0].String() != want {
		t.Errorf("problems = %v, want first %s", problems, want)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	c, _ := config(t, "4.5.0", map[string]string{
		"REDIS_URL": "redis://:geheim@h", "DB_PASS": "geheim", "SIDEKIQ_REDIS_SENTINELS": "a", "SIDEKIQ_REDIS_SENTINEL_MASTER": "m",
		"SIDEKIQ_REDIS_PASSWORD": "geheim", "ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY": "geheim",
	})
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", slog.Any("config", c), slog.Any("redis", c.Redis), slog.Any("key", c.Encryption.PrimaryKey))
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", slog.Any("config", *c), slog.Any("postgres", c.Postgres))
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	all := log.String() + string(encoded) + fmt.Sprintf("%v %+v %#v %s %x %q", c, *c, *c, c.Redis, c.Postgres.Password, c.Encryption)
	if strings.Contains(all, "geheim") || strings.Contains(all, "67656865696d") {
		t.Errorf("a secret was printed: %s", all)
	}
	if string(c.Postgres.Password) != "geheim" {
		t.Error("the secret itself is gone")
	}
}

func TestDetectVersion(t *testing.T) {
	tests := map[string]struct{ source, want string }{
		"methods":         {"module Mastodon\n  module Version\n    module_function\n\n    def major\n      4\n    end\n\n    def minor\n      8\n    end\n\n    def patch\n      0\n    end\n\n    def default_prerelease\n      'alpha.1'\n    end\n", "4.8.0-alpha.1"},
		"no prerelease":   {"def major\n 4\nend\ndef minor\n 3\nend\ndef patch\n 12\nend\ndef default_prerelease\n ''\nend\n", "4.3.12"},
		"endless methods": {"def self.major = 4\ndef self.minor() = 5\ndef self.patch = 1\n", "4.5.1"},
		"constants":       {"MAJOR = 4\nMINOR = 2\nPATCH = 9\nPRERELEASE = 'rc1'\n", "4.2.9-rc1"},
		"something else":  {"def to_s\n 'four'\nend\n", ""},
		"half":            {"def major\n 4\nend\n", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "lib/mastodon/version.rb", test.source)
			v, err := mastodonenv.DetectVersion(dir)
			if err != nil || v.String() != test.want {
				t.Errorf("DetectVersion = %q, %v, want %q", v, err, test.want)
			}
			if v.Known() && (!v.AtLeast(4, 2) || v.AtLeast(4, 9) || v.AtLeast(5, 0)) {
				t.Errorf("AtLeast of %v is wrong", v)
			}
		})
	}
	if v, err := mastodonenv.DetectVersion(t.TempDir()); err != nil || v.Known() {
		t.Errorf("DetectVersion of an empty directory = %v, %v, want unknown", v, err)
	}
}
