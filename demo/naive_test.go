package demo

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

// naive is a worker of no merit: it pops, signs and posts, loses what it holds when it is killed, and tries a host once. It shows
// that the demo judges a worker by what Redis and the receivers say.
type naive struct {
	server  Server
	redis   *redis.Client
	http    *http.Client
	keys    map[int64]naiveKey
	skip    map[string]bool // unavailable domains
	timeout time.Duration

	// Faults to be found by the demo.
	forget   int64 // drop every so manieth job, 0 none
	tamper   int64 // change every so manieth body after signing, 0 none
	twice    int64 // leave every so manieth delivered job in the retry set too, 0 none
	number   atomic.Int64
	stop     context.CancelFunc
	ended    chan struct{}
	inFlight atomic.Int64
	down     sync.Map // host → true

	delivered, retrying, held, givenUp, unavailable atomic.Uint64
}

type naiveKey struct {
	id  string
	key *rsa.PrivateKey
}

const naiveWorkers = 48

func startNaive(configure func(*naive)) StartFunc {
	return func(ctx context.Context, server Server) (Worker, error) {
		options, err := redis.ParseURL(server.RedisURL)
		if err != nil {
			return nil, err
		}
		options.PoolSize = naiveWorkers + 2
		w := &naive{server: server, redis: redis.NewClient(options), ended: make(chan struct{}), timeout: time.Second}
		configure(w)
		if err := w.load(ctx); err != nil {
			return nil, errors.Join(err, w.redis.Close())
		}
		dialer := &net.Dialer{Resolver: server.Resolver, Timeout: w.timeout}
		transport := &http.Transport{
			DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{RootCAs: server.RootCAs}, ForceAttemptHTTP2: true,
			MaxIdleConnsPerHost: 4, TLSHandshakeTimeout: w.timeout,
		}
		w.http = &http.Client{Transport: transport, Timeout: w.timeout + 3*time.Second, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}}
		ctx, w.stop = context.WithCancel(ctx)
		var wg sync.WaitGroup
		for range naiveWorkers {
			wg.Go(func() { w.loop(ctx) })
		}
		go func() {
			wg.Wait()
			transport.CloseIdleConnections()
			_ = w.redis.Close()
			close(w.ended)
		}()

		return w, nil
	}
}

func (w *naive) Done() <-chan struct{} { return w.ended }

func (w *naive) Stop(context.Context) error {
	w.stop()
	<-w.ended

	return nil
}

func (w *naive) Stats() WorkerStats {
	return WorkerStats{
		Delivered: w.delivered.Load(), Retrying: w.retrying.Load(), Held: w.held.Load(), GivenUp: w.givenUp.Load(),
		Unavailable: w.unavailable.Load(), InFlight: int(w.inFlight.Load()), Signer: "Go crypto/rsa",
	}
}

// load reads the keys in both forms, with the secrets of the env file.
func (w *naive) load(ctx context.Context) error {
	text, err := os.ReadFile(w.server.EnvFile)
	if err != nil {
		return err
	}
	env := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		env[key] = value
	}
	conn, err := pgx.Connect(ctx, env["DATABASE_URL"])
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	secret, err := pbkdf2.Key(sha256.New, env["ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY"], []byte(env["ACTIVE_RECORD_ENCRYPTION_KEY_DERIVATION_SALT"]), 65536, 32)
	if err != nil {
		return err
	}
	w.keys, w.skip = make(map[int64]naiveKey), make(map[string]bool)
	rows, err := conn.Query(ctx, `SELECT a.id, a.username, a.id_scheme, coalesce(a.private_key, ''), coalesce(k.private_key, ''), coalesce(k.local_fragment, '#main-key')
		FROM accounts a LEFT JOIN keypairs k ON k.account_id = a.id WHERE a.domain IS NULL`)
	if err != nil {
		return err
	}
	var id int64
	var scheme int
	var name, plain, sealed, fragment string
	_, err = pgx.ForEachRow(rows, []any{&id, &name, &scheme, &plain, &sealed, &fragment}, func() error {
		if sealed != "" {
			if plain, err = naiveDecrypt(secret, sealed); err != nil {
				return err
			}
		}
		key, err := naivePEM(plain)
		uri := "https://" + env["LOCAL_DOMAIN"] + "/users/" + name
		if scheme == 1 {
			uri = fmt.Sprintf("https://%s/ap/users/%d", env["LOCAL_DOMAIN"], id)
		}
		w.keys[id] = naiveKey{id: uri + fragment, key: key}

		return err
	})
	if err != nil {
		return err
	}
	rows, err = conn.Query(ctx, `SELECT domain FROM unavailable_domains`)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, []any{&name}, func() error { w.skip[name] = true; return nil })

	return err
}

func naiveDecrypt(secret []byte, text string) (string, error) {
	var m struct {
		P []byte `json:"p"`
		H struct {
			IV []byte `json:"iv"`
			At []byte `json:"at"`
		} `json:"h"`
	}
	block, err := aes.NewCipher(secret)
	if err = errors.Join(err, json.Unmarshal([]byte(text), &m)); err != nil {
		return "", err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return "", err
	}
	deflated, err := gcm.Open(nil, m.H.IV, append(m.P, m.H.At...), nil)
	if err != nil {
		return "", err
	}
	r, err := zlib.NewReader(bytes.NewReader(deflated))
	if err != nil {
		return "", err
	}
	plain, err := io.ReadAll(r)

	return string(plain), err
}

func naivePEM(text string) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("no PEM")
	}
	if block.Type == "RSA PRIVATE KEY" {
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}

	return key.(*rsa.PrivateKey), nil
}

func (w *naive) loop(ctx context.Context) {
	background := context.WithoutCancel(ctx)
	queues, turn := []string{"queue:push", "queue:pull"}, 0
	for ctx.Err() == nil {
		payload, err := w.redis.RPop(background, queues[turn%2]).Result()
		if turn++; errors.Is(err, redis.Nil) {
			time.Sleep(20 * time.Millisecond)

			continue
		}
		if err != nil {
			return
		}
		w.inFlight.Add(1)
		w.perform(background, payload)
		w.inFlight.Add(-1)
	}
}

func (w *naive) perform(ctx context.Context, payload string) {
	n := w.number.Add(1)
	if w.forget > 0 && n%w.forget == 0 {
		return
	}
	var job struct {
		Args []json.RawMessage `json:"args"`
	}
	var body, inbox string
	var account int64
	if json.Unmarshal([]byte(payload), &job) != nil || len(job.Args) < 3 || errors.Join(json.Unmarshal(job.Args[0], &body),
		json.Unmarshal(job.Args[1], &account), json.Unmarshal(job.Args[2], &inbox)) != nil {
		return
	}
	u, err := url.Parse(inbox)
	if err != nil {
		return
	}
	if w.skip[u.Hostname()] {
		w.unavailable.Add(1)

		return
	}
	now := float64(time.Now().UnixMilli()) / 1000
	if _, down := w.down.Load(u.Host); down {
		w.held.Add(1)
		w.store(ctx, "schedule", now, payload, fmt.Sprintf(`,"queueville_hold":{"host":%q,"reason":"down"},"queueville_held_since":%f}`, u.Host, now))

		return
	}
	sent := body
	if w.tamper > 0 && n%w.tamper == 0 {
		sent = strings.Replace(body, "https", "httpz", 1)
	}
	status, err := w.deliver(ctx, w.keys[account], u, body, sent, false)
	if err == nil && (status == 401 || status == 400) {
		status, err = w.deliver(ctx, w.keys[account], u, body, sent, true)
	}
	switch {
	case err != nil || !final(status) && status/100 != 2:
		if err != nil {
			w.down.Store(u.Host, true)
		}
		w.retrying.Add(1)
		w.store(ctx, "retry", now, payload, fmt.Sprintf(`,"failed_at":%d,"retry_count":0}`, time.Now().UnixMilli()))
	case status/100 == 2:
		w.delivered.Add(1)
		if w.twice > 0 && n%w.twice == 0 {
			w.store(ctx, "retry", now, payload, "}")
			w.store(ctx, "dead", now, payload, "}")
		}
	default:
		w.givenUp.Add(1)
	}
}

func (w *naive) store(ctx context.Context, set string, now float64, payload, tail string) {
	w.redis.ZAdd(ctx, set, redis.Z{Score: now + 60, Member: strings.TrimSuffix(payload, "}") + tail})
}

func (w *naive) deliver(ctx context.Context, key naiveKey, u *url.URL, body, sent string, modern bool) (int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(sent))
	if err != nil {
		return 0, err
	}
	r.Host = u.Hostname()
	sum := sha256.Sum256([]byte(body))
	digest := base64.StdEncoding.EncodeToString(sum[:])
	if modern {
		params := fmt.Sprintf(`("@method" "@target-uri" "content-digest");created=%d;keyid="%s"`, time.Now().Unix(), key.id)
		r.Header.Set("Content-Digest", "sha-256=:"+digest+":")
		r.Header.Set("Signature-Input", "sig1="+params)
		r.Header.Set("Signature", "sig1=:"+naiveSign(key, fmt.Sprintf("\"@method\": POST\n\"@target-uri\": %s\n\"content-digest\": sha-256=:%s:\n\"@signature-params\": %s", u, digest, params))+":")
	} else {
		date := time.Now().UTC().Format(http.TimeFormat)
		r.Header.Set("Date", date)
		r.Header.Set("Digest", "SHA-256="+digest)
		text := fmt.Sprintf("(request-target): post %s\nhost: %s\ndate: %s\ndigest: SHA-256=%s", u.RequestURI(), r.Host, date, digest)
		r.Header.Set("Signature", fmt.Sprintf(`keyId="%s",algorithm="rsa-sha256",headers="(request-target) host date digest",signature="%s"`, key.id, naiveSign(key, text)))
	}
	response, err := w.http.Do(r)
	if err != nil {
		return 0, err
	}
	_, _ = io.CopyN(io.Discard, response.Body, 1<<20)

	return response.StatusCode, response.Body.Close()
}

func naiveSign(key naiveKey, text string) string {
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key.key, crypto.SHA256, sum[:])
	if err != nil {
		panic(err)
	}

	return base64.StdEncoding.EncodeToString(signature)
}
