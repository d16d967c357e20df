package activitypub

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// TestStatus: what each answer means for the job, the tracker and the host (spec 3.2, steps 4 and 5).
func TestStatus(t *testing.T) {
	b := setup(t, "4.7.0")
	old := setup(t, "4.5.0")
	today := time.Now().UTC().Format("20060102")
	tests := map[string]struct {
		status  int
		outcome Outcome
		kind    FailureKind
		tracked bool
	}{
		"200 is success":                         {200, Delivered, KindNone, false},
		"202 is success":                         {202, Delivered, KindNone, false},
		"204 is success":                         {204, Delivered, KindNone, false},
		"299 is success":                         {299, Delivered, KindNone, false},
		"304 is retried":                         {304, Failed, Kind4xx, true},
		"400 is unsalvageable":                   {400, Unsalvageable, Kind4xx, false},
		"401 is retried":                         {401, Failed, Kind4xx, true},
		"403 is unsalvageable":                   {403, Unsalvageable, Kind4xx, false},
		"404 is unsalvageable, and marks no one": {404, Unsalvageable, Kind4xx, false},
		"408 is retried":                         {408, Failed, Kind5xx, true},
		"410 is unsalvageable, and marks no one": {410, Unsalvageable, Kind4xx, false},
		"413 is unsalvageable":                   {413, Unsalvageable, Kind4xx, false},
		"429 is retried":                         {429, Failed, Kind429, true},
		"499 is unsalvageable":                   {499, Unsalvageable, Kind4xx, false},
		"500 is retried":                         {500, Failed, Kind5xx, true},
		"501 is unsalvageable":                   {501, Unsalvageable, Kind4xx, false},
		"503 is retried":                         {503, Failed, Kind5xx, true},
		"599 is retried":                         {599, Failed, Kind5xx, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			host := strings.Map(func(r rune) rune {
				if r >= '0' && r <= '9' {
					return r
				}
				return -1
			}, name) + ".test"
			for _, b := range []*bundle{b, old} {
				must(t, b.redis.SAdd(t.Context(), "exhausted_deliveries:"+host, "20200101").Err())
				r := b.receiver(host, status(tt.status))
				got := b.deliver(b.job(r.inbox()))
				if got.Outcome != tt.outcome || got.Kind != tt.kind || got.Status != tt.status || got.Host != host {
					t.Errorf("Deliver answered %d = %+v, want %v of kind %v", tt.status, got, tt.outcome, tt.kind)
				}
				if wantClass := tt.outcome == Failed; wantClass != (got.ErrorClass == "Mastodon::UnexpectedResponseError") {
					t.Errorf("error class = %q", got.ErrorClass)
				}
				if (got.Err == nil) != (tt.outcome == Delivered) {
					t.Errorf("error = %v", got.Err)
				}
				days := b.tracked(host)
				// Before 4.6 an unsalvageable answer counted as a success.
				cleared := tt.outcome == Delivered || tt.outcome == Unsalvageable && b == old
				if want := !cleared; slices.Contains(days, "20200101") != want {
					t.Errorf("%s: earlier failure days kept = %v, want %v", b.version, !want, want)
				}
				if slices.Contains(days, today) != tt.tracked {
					t.Errorf("%s: days = %v, failure of today tracked should be %v", b.version, days, tt.tracked)
				}
			}
		})
	}
}

// TestOrderOfEffects: spec 3.2, steps 1 and 2.
func TestOrderOfEffects(t *testing.T) {
	b := setup(t, "4.7.0")
	r := b.receiver("gone.test", nil)
	b.exec(`INSERT INTO unavailable_domains (domain, created_at, updated_at) VALUES ('gone.test', now(), now())`)

	job := b.job(r.inbox())
	job.AccountID = 404 // the row is looked at before the account
	if got := b.deliver(job); got.Outcome != Unavailable || got.Err != nil || got.ErrorClass != "" {
		t.Errorf("Deliver to an unavailable host = %+v", got)
	}
	job = b.job(strings.ToUpper(r.inbox()[:18]) + r.inbox()[18:])
	if got := b.deliver(job); got.Outcome != Unavailable {
		t.Errorf("Deliver to an unavailable host in upper case = %+v", got)
	}
	if n := len(r.requests()); n != 0 {
		t.Errorf("%d requests went to an unavailable host", n)
	}
	if days := b.tracked("gone.test"); len(days) != 0 {
		t.Errorf("an unavailable host was tracked: %v", days)
	}

	job = b.job(r.inbox())
	job.Options.BypassAvailability = true
	if got := b.deliver(job); got.Outcome != Delivered {
		t.Errorf("Deliver with bypass_availability = %+v", got)
	}
	if b.listed("gone.test") {
		t.Error("a success left the row in unavailable_domains")
	}
	if got := b.deliver(b.job(r.inbox())); got.Outcome != Delivered {
		t.Errorf("Deliver after the host came back = %+v", got)
	}

	job.AccountID = 404
	got := b.deliver(job)
	if got.Outcome != Failed || got.ErrorClass != "ActiveRecord::RecordNotFound" || !errors.Is(got.Err, errNoAccount) {
		t.Errorf("Deliver for a missing account = %+v", got)
	}
	if days := b.tracked("gone.test"); len(days) != 0 {
		t.Errorf("a missing account was held against the host: %v", days)
	}
}

// TestGoneAccount: 401 is final when the account is suspended or deleted for good; it signs all the same.
func TestGoneAccount(t *testing.T) {
	t.Parallel()
	b := setup(t, "4.7.0")
	r := b.receiver("a.test", status(401))
	suspended := b.data.Accounts[7]
	if !suspended.Suspended {
		t.Fatal("test data has changed")
	}
	job := b.job(r.inbox())
	job.AccountID = suspended.ID
	if got := b.deliver(job); got.Outcome != Unsalvageable {
		t.Errorf("401 for a suspended account = %+v, want Unsalvageable", got)
	}
	for _, req := range r.requests() {
		if req.signed != nil {
			t.Errorf("a suspended account's signature: %v", req.signed)
		}
	}
	b.exec(`INSERT INTO account_deletion_requests (account_id, created_at, updated_at) VALUES ($1, now(), now())`, suspended.ID)
	time.Sleep(1100 * time.Millisecond) // a key is read again at most once a second
	if got := b.deliver(job); got.Outcome != Failed {
		t.Errorf("401 for an account that could still come back = %+v, want Failed", got)
	}
	b.exec(`UPDATE accounts SET requested_deletion_at = now() WHERE id = $1`, b.data.Accounts[0].ID)
	if got := b.deliver(b.job(r.inbox())); got.Outcome != Unsalvageable {
		t.Errorf("401 for a deleted account = %+v, want Unsalvageable", got)
	}
}

func TestHostileURLs(t *testing.T) {
	b := setup(t, "4.7.0")
	tests := map[string]struct{ url, class string }{
		"empty":              {"", "HTTP::Request::UnsupportedSchemeError"},
		"no scheme":          {"example.test/inbox", "HTTP::Request::UnsupportedSchemeError"},
		"another scheme":     {"gopher://example.test/", "HTTP::Request::UnsupportedSchemeError"},
		"a file":             {"file:///etc/passwd", "HTTP::Request::UnsupportedSchemeError"},
		"no host":            {"https:///inbox", "Addressable::URI::InvalidURIError"},
		"a bad port":         {"https://example.test:99999/inbox", "Addressable::URI::InvalidURIError"},
		"a bad escape":       {"https://example.test/%zz\x7f", "Addressable::URI::InvalidURIError"},
		"a header in it":     {"https://example.test/inbox\r\nX-Evil: 1", "Addressable::URI::InvalidURIError"},
		"a host with spaces": {"https://exa mple.test/inbox", "Addressable::URI::InvalidURIError"},
		"far too long":       {"https://example.test/" + strings.Repeat("a", maxURLBytes), "Addressable::URI::InvalidURIError"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := b.deliver(b.job(tt.url))
			if got.Outcome != Failed || got.ErrorClass != tt.class || got.Host != "" {
				t.Errorf("Deliver to %q = %+v, want Failed with %s", tt.url, got, tt.class)
			}
			if tt.url != "" && strings.Contains(got.Err.Error(), tt.url) {
				t.Error("the error quotes the URL")
			}
		})
	}
	if n := b.Stats().TrackerPending; n != 0 {
		t.Errorf("%d hosts tracked", n)
	}
}

func TestStopping(t *testing.T) {
	b := setup(t, "4.7.0")
	release := make(chan struct{})
	r := b.receiver("slow.test", func(_ int, _ received, w http.ResponseWriter) { <-release })
	defer close(release)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("stopping")
	gone, cancelGone := context.WithCancelCause(t.Context())
	cancelGone(cause)
	if got := b.Deliver(gone, b.job(r.inbox())); got.Outcome != Deferred || !errors.Is(got.Err, cause) {
		t.Errorf("Deliver when stopped = %+v, want Deferred", got)
	}
	time.AfterFunc(100*time.Millisecond, func() { cancel(cause) })
	got := b.Deliver(ctx, b.job(r.inbox()))
	if got.Outcome != Deferred || !errors.Is(got.Err, cause) {
		t.Errorf("Deliver while stopping = %+v, want Deferred", got)
	}
	if n := b.Stats().TrackerPending; n != 0 {
		t.Error("our stopping was held against the host")
	}
}

func TestSignWith(t *testing.T) {
	b := setup(t, "4.7.0")
	r := b.receiver("a.test", nil)
	other := testKeys()[1]
	text := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(other)}))
	uri := b.data.Accounts[0].URI
	tests := map[string]struct {
		spec  SigningKeySpec
		keyID string
	}{
		"a PEM by itself":  {SigningKeySpec{PrivateKey: text}, uri + "#main-key"},
		"with a fragment":  {SigningKeySpec{PrivateKey: text, LocalFragment: "#rsa-0123456789abcdef", URI: "https://x.test/k"}, uri + "#rsa-0123456789abcdef"},
		"with a URI alone": {SigningKeySpec{PrivateKey: text, URI: "https://local.test/k"}, "https://local.test/k"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b.public[tt.keyID] = &other.PublicKey
			job := b.job(r.inbox())
			job.Options.SignWith = &tt.spec
			if got := b.deliver(job); got.Outcome != Delivered {
				t.Fatalf("Deliver = %+v", got)
			}
			reqs := r.requests()
			last := reqs[len(reqs)-1]
			if last.signed != nil || !strings.HasPrefix(last.header.Get("Signature"), `keyId="`+tt.keyID+`"`) {
				t.Errorf("signature %s: %v", last.header.Get("Signature"), last.signed)
			}
		})
	}
	for name, spec := range map[string]SigningKeySpec{
		"no key":                        {},
		"a PEM that is none":            {PrivateKey: "-----BEGIN"},
		"a key id that breaks a header": {PrivateKey: text, URI: "https://x.test/\"\r\nX: y"},
	} {
		t.Run(name, func(t *testing.T) {
			job := b.job(r.inbox())
			job.Options.SignWith = &spec
			if got := b.deliver(job); got.Outcome != Failed || got.ErrorClass != "OpenSSL::PKey::RSAError" {
				t.Errorf("Deliver = %+v", got)
			}
		})
	}
}

func TestSignAndDryRun(t *testing.T) {
	b := setup(t, "4.7.0", func(c *Config) { c.DryRun = true })
	r := b.receiver("a.test", nil)
	signed, early := b.Sign(t.Context(), b.job(r.inbox()))
	if early != nil || signed.Host != "a.test" || signed.Destination != r.dest() || signed.Header.Get("Signature") == "" || signed.SignTime <= 0 {
		t.Errorf("Sign = %+v, %+v", signed, early)
	}
	if got := b.deliver(b.job(r.inbox())); got.Outcome != Delivered || got.SignTime <= 0 {
		t.Errorf("Deliver in a dry run = %+v", got)
	}
	if _, early := b.Sign(t.Context(), Delivery{AccountID: 404, InboxURL: r.inbox()}); early == nil || early.Outcome != Failed {
		t.Errorf("Sign for a missing account = %+v", early)
	}
	if n := len(r.requests()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// TestQueryModes: every statement works in the query modes that PgBouncer in transaction mode needs.
func TestQueryModes(t *testing.T) {
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeCacheDescribe} {
		t.Run(mode.String(), func(t *testing.T) {
			var pool *pgxpool.Pool
			b := setup(t, "4.7.0", func(c *Config) {
				config := c.DB.(*pgxpool.Pool).Config()
				config.ConnConfig.DefaultQueryExecMode = mode
				var err error
				pool, err = pgxpool.NewWithConfig(t.Context(), config)
				must(t, err)
				c.DB = pool
			})
			defer pool.Close()
			r := b.receiver("a.test", nil)
			for n := range 7 {
				b.tracker.failure("a.test", time.Now().AddDate(0, 0, -n))
				must(t, b.Flush(t.Context()))
			}
			if !b.listed("a.test") {
				t.Error("no row after seven days")
			}
			job := b.job(r.inbox())
			job.Options = DeliveryOptions{SynchronizeFollowers: true, BypassAvailability: true}
			if got := b.deliver(job); got.Outcome != Delivered || b.listed("a.test") {
				t.Errorf("Deliver = %+v", got)
			}
		})
	}
}
