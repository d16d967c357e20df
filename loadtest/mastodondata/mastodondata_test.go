package mastodondata

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/queueville/queueville/internal/pgtest"
	"github.com/queueville/queueville/internal/redistest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := errors.Join(pgtest.Stop(), redistest.Stop(), goleak.Find()); err != nil {
		println(err.Error())
		code = 1
	}
	os.Exit(code)
}

func connect(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), pgtest.DB(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })

	return conn
}

func TestWrite(t *testing.T) {
	keys := []*rsa.PrivateKey{mustKey(t), mustKey(t)}
	for _, line := range []Line{Line43, Line45, Line47} {
		t.Run(string(line), func(t *testing.T) {
			conn := connect(t)
			cfg := Config{
				Line: line, Domain: "local.test", Secrets: NewSecrets(), Accounts: 12, Suspended: 1, Keys: keys,
				Remotes:     []Remote{{Origin: "https://a.fedi.test:1234", Followers: 3}, {Origin: "https://b.fedi.test:1234", Followers: 1}},
				Unavailable: []string{"gone.fedi.test"},
			}
			data, err := Plan(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := Write(t.Context(), conn, cfg, data); err != nil {
				t.Fatal(err)
			}
			count := func(sql string) (n int) {
				if err := conn.QueryRow(t.Context(), sql).Scan(&n); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}

				return n
			}
			for sql, want := range map[string]int{
				`SELECT count(*) FROM accounts WHERE domain IS NULL`:                   12,
				`SELECT count(*) FROM accounts WHERE suspended_at IS NOT NULL`:         1,
				`SELECT count(*) FROM accounts WHERE domain = 'a.fedi.test:1234'`:      3,
				`SELECT count(*) FROM follows`:                                         12 + 11 + 10 + 12,
				`SELECT count(*) FROM users`:                                           12,
				`SELECT count(*) FROM unavailable_domains WHERE domain LIKE '%.test'`:  1,
				`SELECT max(version)::bigint % 1000000000 FROM schema_migrations`:      mod(line.SchemaVersion()),
				`SELECT count(*) FROM accounts WHERE private_key LIKE '-----BEGIN %'`:  map[Line]int{Line43: 12, Line45: 12, Line47: 6}[line],
				`SELECT count(*) FROM pg_tables WHERE tablename = 'keypairs'`:          map[Line]int{Line47: 1}[line],
				`SELECT count(*) FROM pg_attribute WHERE attname = 'id_scheme'`:        map[Line]int{Line45: 1, Line47: 1}[line],
				`SELECT count(*) FROM accounts WHERE domain IS NULL AND uri IS NULL`:   map[Line]int{Line47: 12}[line],
				`SELECT count(*) FROM accounts WHERE domain IS NULL AND url IS NULL`:   12,
				`SELECT count(DISTINCT uri) FROM accounts WHERE domain IS NOT NULL`:    4,
				`SELECT count(*) FROM accounts WHERE followers_url LIKE '%/followers'`: 4,
			} {
				if got := count(sql); got != want {
					t.Errorf("%s = %d, want %d", sql, got, want)
				}
			}
			if line == Line47 {
				if got := count(`SELECT count(*) FROM keypairs WHERE local_fragment LIKE '#%' AND type = 0 AND private_key LIKE '{"p":%'`); got != 6 {
					t.Errorf("%d keypairs, want 6", got)
				}
			}
			if got := len(data.PublicKeys()); got != 12 {
				t.Errorf("%d public keys, want 12", got)
			}
		})
	}
}

func mod(version string) int {
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		panic(err)
	}

	return int(n % 1_000_000_000)
}

func mustKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	data, err := Plan(Config{Line: Line43, Domain: "x.test", Accounts: 1})
	if err != nil {
		t.Fatal(err)
	}

	return data.Accounts[0].Key
}

// TestRubyDecrypts has Ruby's OpenSSL undo the encryption, step by step as the spec says.
func TestRubyDecrypts(t *testing.T) {
	ruby, err := exec.LookPath("ruby")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("no ruby on this machine: apt-get install ruby")
	}
	secrets := NewSecrets()
	seal, err := newEncryptor(secrets)
	if err != nil {
		t.Fatal(err)
	}
	private, _, err := pemOf(mustKey(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, plain := range map[string]string{"a long text is compressed": private, "a short text is not": "short"} {
		t.Run(name, func(t *testing.T) {
			encrypted, err := seal.encrypt([]byte(plain))
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), ruby, "-rjson", "-ropenssl", "-rzlib", "-e", `
				m = JSON.parse(STDIN.read)
				key = OpenSSL::KDF.pbkdf2_hmac(ENV.fetch("PRIMARY"), salt: ENV.fetch("SALT"), iterations: 65536, length: 32, hash: "SHA256")
				c = OpenSSL::Cipher.new("aes-256-gcm").decrypt
				c.key, c.iv, c.auth_tag, c.auth_data = key, m["h"]["iv"].unpack1("m0"), m["h"]["at"].unpack1("m0"), ""
				text = c.update(m["p"].unpack1("m0")) + c.final
				print m["h"]["c"] ? Zlib.inflate(text) : text`)
			cmd.Env = append(os.Environ(), "PRIMARY="+secrets.PrimaryKey, "SALT="+secrets.KeyDerivationSalt)
			cmd.Stdin = strings.NewReader(encrypted)
			got, err := cmd.Output()
			if err != nil || string(got) != plain {
				t.Errorf("ruby read %q, %v", got, err)
			}
			if compressed := strings.Contains(encrypted, `"c":true`); compressed != (len(plain) > compressAbove) {
				t.Errorf("compressed = %v for %d bytes", compressed, len(plain))
			}
		})
	}
}

func TestPlan(t *testing.T) {
	key := mustKey(t)
	data, err := Plan(Config{Line: Line47, Domain: "local.test", Accounts: 20, Suspended: 2, Keys: []*rsa.PrivateKey{key}})
	if err != nil {
		t.Fatal(err)
	}
	var numeric, encrypted, suspended, own int
	for _, account := range data.Accounts {
		if !strings.HasPrefix(account.KeyID, account.URI+"#") {
			t.Errorf("key id %q of %q", account.KeyID, account.URI)
		}
		for n, yes := range map[*int]bool{
			&numeric: strings.Contains(account.URI, "/ap/users/"), &encrypted: account.Encrypted,
			&suspended: account.Suspended, &own: strings.Contains(account.KeyID, "#rsa-"),
		} {
			if yes {
				*n++
			}
		}
	}
	if numeric != 10 || encrypted != 10 || suspended != 2 || own != 2 {
		t.Errorf("%d numeric, %d encrypted, %d suspended, %d with a key id of their own", numeric, encrypted, suspended, own)
	}
	if _, err := Plan(Config{Line: "9.9", Suspended: 3}); err == nil ||
		!strings.Contains(err.Error(), "9.9") || !strings.Contains(err.Error(), "no domain") || !strings.Contains(err.Error(), "3 suspended") {
		t.Errorf("error = %v", err)
	}
}

func TestPEMForms(t *testing.T) {
	key := mustKey(t)
	for i, want := range map[int]string{0: "RSA PRIVATE KEY", 4: "PRIVATE KEY"} {
		private, public, err := pemOf(key, i)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode([]byte(private))
		if block == nil || block.Type != want {
			t.Errorf("private key %d is %v", i, block)
		}
		block, _ = pem.Decode([]byte(public))
		if parsed, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil || !key.PublicKey.Equal(parsed) {
			t.Errorf("public key %d: %v", i, err)
		}
	}
}

func TestPayload(t *testing.T) {
	at := time.UnixMilli(1_795_291_251_409)
	body := NewBody([]byte("{\"a\":\"é\u2028</p>\\n\"}\x01"))
	cases := map[string]struct {
		line    Line
		low     bool
		options string
		at      time.Time
		want    string
	}{
		"Sidekiq 8 writes milliseconds": {
			Line47, false, "", at,
			`{"retry":16,"queue":"push","dead":false,"class":"ActivityPub::DeliveryWorker","args":["{\"a\":\"é` + "\u2028" + `</p>\\n\"}\u0001",7,"https://a.test/inbox"],"jid":"J","created_at":1795291251409,"enqueued_at":1795291251409}`,
		},
		"Sidekiq 6 writes float seconds": {
			Line43, true, `{"synchronize_followers":true}`, at,
			`{"retry":8,"queue":"pull","dead":false,"class":"ActivityPub::LowPriorityDeliveryWorker","args":["{\"a\":\"é` + "\u2028" + `</p>\\n\"}\u0001",7,"https://a.test/inbox",{"synchronize_followers":true}],"jid":"J","created_at":1795291251.409,"enqueued_at":1795291251.409}`,
		},
		"a whole second keeps its point": {
			Line43, false, "{}", time.Unix(1_795_291_251, 0),
			`{"retry":16,"queue":"push","dead":false,"class":"ActivityPub::DeliveryWorker","args":["{\"a\":\"é` + "\u2028" + `</p>\\n\"}\u0001",7,"https://a.test/inbox",{}],"jid":"J","created_at":1795291251.0,"enqueued_at":1795291251.0}`,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			jobs := NewJobs(tc.line, 1)
			d := jobs.New(body, 7, "https://a.test/inbox", tc.options)
			if tc.low {
				d.Low()
			}
			if len(d.JID) != 24 {
				t.Errorf("jid %q", d.JID)
			}
			got := string(jobs.AppendPayload(nil, &d, tc.at, tc.at))
			if got = strings.Replace(got, d.JID, "J", 1); got != tc.want {
				t.Errorf("payload = %s\nwant      %s", got, tc.want)
			}
		})
	}
}

func TestPush(t *testing.T) {
	_, _, client := redistest.DB(t)
	jobs := NewJobs(Line47, 1)
	body := NewBody([]byte(`{"id":1}`))
	list := make([]Delivery, 2300)
	for i := range list {
		list[i] = jobs.New(body, int64(i), "https://a.test/inbox", "")
		if i >= 2200 {
			list[i].Low()
		}
	}
	var slices []int
	err := jobs.Push(t.Context(), client, list, func(slice []Delivery, _ time.Time) { slices = append(slices, len(slice)) })
	if err != nil {
		t.Fatal(err)
	}
	if len(slices) != 4 || slices[0] != 1000 || slices[2] != 200 || slices[3] != 100 {
		t.Errorf("slices of %v", slices)
	}
	for i, want := range []int{0, 1, 2199} { // the first pushed is fetched first
		payload, err := client.LIndex(t.Context(), "queue:push", int64(-1-want)).Result()
		var job struct {
			JID string `json:"jid"`
		}
		if err := errors.Join(err, json.Unmarshal([]byte(payload), &job)); err != nil || job.JID != list[want].JID {
			t.Errorf("job %d = %s, %v", i, payload, err)
		}
	}
	if n := client.LLen(t.Context(), "queue:pull").Val(); n != 100 || client.SCard(t.Context(), "queues").Val() != 2 {
		t.Errorf("%d jobs on pull", n)
	}
}

func FuzzRubyString(f *testing.F) {
	f.Add([]byte("a\"b\\c\n\x00é\xff"))
	f.Fuzz(func(t *testing.T, text []byte) {
		quoted := appendRubyString(nil, text)
		var got string
		if err := json.Unmarshal(quoted, &got); err != nil {
			t.Fatalf("%q: %v", quoted, err)
		}
		if want := string(bytes.ToValidUTF8(text, []byte("\uFFFD"))); len(bytes.Runes(text)) != len([]rune(got)) && got != want {
			t.Errorf("%q read back as %q", text, got)
		}
	})
}
