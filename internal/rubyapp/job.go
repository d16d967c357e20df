package rubyapp

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/queueville/queueville/loadtest/mastodondata"
)

// Names of classes, as in a payload's field class.
const (
	Processing     = "ActivityPub::ProcessingWorker"
	Distribution   = "DistributionWorker"
	FeedInsert     = "FeedInsertWorker"
	PushUpdate     = "PushUpdateWorker"
	ResolveAccount = "ResolveAccountWorker" // unique: push it with App.PushRuby
	ThreadResolve  = "ThreadResolveWorker"
	LinkCrawl      = "LinkCrawlWorker"
	RefreshAccount = "RemoteAccountRefreshWorker"
	BulkImport     = "BulkImportWorker"
	Announcement   = "Admin::DistributeAnnouncementNotificationWorker"
	Mail           = "ActionMailer::MailDeliveryJob" // push it with App.PushRuby
	Burn           = "Trouble::Burn"                 // [ms of processor time]
	Wait           = "Trouble::Wait"                 // [ms]
	Query          = "Trouble::Query"                // [ms in the database]
	Read           = "Trouble::Read"                 // [ms in the database that reads go to]
	Hog            = "Trouble::Hog"                  // [MiB]
	Crash          = "Trouble::Crash"                // [signal]
	Exit           = "Trouble::Exit"                 // [status]
	Raise          = "Trouble::Raise"                // [message]
	Print          = "Trouble::Print"                // [text]
)

// Job is one job to be pushed.
type Job struct {
	Class string
	Queue string // "" is the class's own queue
	Args  []any
	JID   string // made if ""
	Retry any    // nil is what the class says
}

// options are what classes say in Ruby; a foreign client has to know it.
var options = map[string]struct {
	queue string
	retry any
}{
	Processing: {"ingress", 8}, ResolveAccount: {"pull", true}, ThreadResolve: {"pull", 3}, LinkCrawl: {"pull", 0}, RefreshAccount: {"pull", 3},
	BulkImport: {"pull", false},
}

// Payload is the job as Sidekiq's client of before 8.0 writes it (times in float seconds, which all versions read), and its jid and queue.
func (j Job) Payload(now time.Time) (payload, jid, queue string) {
	o := options[j.Class]
	jid, queue = j.JID, j.Queue
	if jid == "" {
		jid = newJID()
	}
	if queue == "" {
		queue = o.queue
	}
	if queue == "" {
		queue = "default"
	}
	retry := j.Retry
	if retry == nil {
		retry = o.retry
	}
	if retry == nil {
		retry = true
	}
	args := j.Args
	if args == nil {
		args = []any{}
	}
	at := strconv.FormatFloat(float64(now.UnixMicro())/1e6, 'f', -1, 64)
	return fmt.Sprintf(`{"retry":%s,"queue":%s,"class":%s,"args":%s,"jid":%s,"created_at":%s,"enqueued_at":%s}`,
		encode(retry), encode(queue), encode(j.Class), encode(args), encode(jid), at, at), jid, queue
}

func newJID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// encode is JSON as Ruby writes it, without escaping <, > and &.
func encode(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil { // arguments are the caller's plain values
		return "null"
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// Mix makes jobs of Mastodon's classes in given shares. A seed decides everything but jids. It is not safe for concurrent use.
type Mix struct {
	rng      *mathrand.Rand
	accounts []mastodondata.Account
	signed   map[int]signature // by number modulo signatures
	shares   []Share
	total    int
	serial   int
	prefix   string
}

// Share is how much of a mix a class is.
type Share struct {
	Class string
	Parts int
}

type signature struct{ id, value string }

// signatures is how many different activity ids are signed; more would only cost the maker time.
const signatures = 64

// Ingress is the mix of a server that is behind with what others send it: processor time, and little else.
func Ingress() []Share { return []Share{{Processing, 1}} }

// Mixed is the mix of a server with all queues in use: half of the jobs take processor time, half wait.
func Mixed() []Share {
	return []Share{{Processing, 30}, {FeedInsert, 15}, {PushUpdate, 5}, {ThreadResolve, 25}, {LinkCrawl, 25}}
}

// NewMix returns a mix whose activities are signed by the given accounts.
func NewMix(seed uint64, accounts []mastodondata.Account, shares ...Share) *Mix {
	m := &Mix{
		rng: mathrand.New(mathrand.NewPCG(seed, 1)), accounts: accounts, shares: shares, signed: map[int]signature{}, //nolint:gosec // not secret
		prefix: "https://remote.test/" + strconv.FormatUint(seed, 10) + "/",
	}
	for _, s := range shares {
		m.total += s.Parts
	}
	return m
}

// Next makes one job.
func (m *Mix) Next() Job {
	m.serial++
	part := m.rng.IntN(m.total)
	for _, s := range m.shares {
		if part -= s.Parts; part < 0 {
			return m.make(s.Class)
		}
	}
	return m.make(m.shares[0].Class) // not reached: the parts add up to total
}

func (m *Mix) make(class string) Job {
	j := Job{Class: class}
	id := m.serial
	switch class {
	case Processing:
		j.Args = m.activity()
	case Distribution:
		j.Args = []any{id, map[string]any{"fan": 3}}
	case FeedInsert:
		j.Args = []any{id%100 + 1, id % 50, "home"}
	case PushUpdate:
		j.Args = []any{id % 50, id%SeedStatuses + 1, nil, map[string]any{}}
	case ThreadResolve:
		j.Args = []any{id%SeedStatuses + 1, fmt.Sprintf("/statuses/%d", id), map[string]any{}}
	case LinkCrawl:
		j.Args = []any{id%SeedStatuses + 1, fmt.Sprintf("/card/%d", id)}
	case Burn, Wait, Query, Read:
		j.Args = []any{1 + m.rng.IntN(20)}
	}
	return j
}

// activity is what arrives: Deletes of what nobody here knows, which are the most frequent, and Creates of several sizes.
func (m *Mix) activity() []any {
	number := m.rng.IntN(len(m.accounts))
	account := &m.accounts[number]
	sig := m.sign(number, m.serial%signatures)
	kind, rounds, words := "Delete", 2, 0
	if m.rng.IntN(100) < 60 {
		kind, rounds, words = "Create", 4+m.rng.IntN(16), 20+m.rng.IntN(200)
	}
	status := m.prefix + strconv.Itoa(m.serial)
	object := map[string]any{"id": status, "type": "Note"}
	if kind == "Create" {
		object["content"] = "<p>" + strings.Repeat(`harbour <a href="https://tag.test/x" class="u">lantern</a> `, words/2) + "</p>"
		object["to"] = []string{"https://www.w3.org/ns/activitystreams#Public"}
		tags := make([]any, 6)
		for i := range tags {
			tags[i] = map[string]any{"type": "Mention", "href": fmt.Sprintf("https://local.test/users/user%d", i), "name": fmt.Sprintf("@user%d", i)}
		}
		object["tag"] = tags
	}
	body := map[string]any{
		"@context": "https://www.w3.org/ns/activitystreams", "id": sig.id, "type": kind, "actor": account.URI, "object": object, "rounds": rounds,
		"published": "2026-11-21T10:00:00Z", "signature": map[string]any{"type": "RsaSignature2017", "signatureValue": sig.value},
	}
	return []any{account.ID, encode(body), nil, "Account"}
}

// sign signs the id of an activity, which is all that the application verifies.
func (m *Mix) sign(account, number int) signature {
	key := account*signatures + number
	if s, known := m.signed[key]; known {
		return s
	}
	s := signature{id: fmt.Sprintf("%s/activities/%d", m.accounts[account].URI, number)}
	sum := sha256.Sum256([]byte(s.id))
	value, err := rsa.SignPKCS1v15(nil, m.accounts[account].Key, crypto.SHA256, sum[:])
	if err == nil { // a key that cannot sign leaves a signature that does not verify: the job ends early
		s.value = base64.StdEncoding.EncodeToString(value)
	}
	m.signed[key] = s
	return s
}

// SeedStatuses is how many statuses a prepared database has, with ids from 1.
const SeedStatuses = 100
