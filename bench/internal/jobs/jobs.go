// Package jobs makes the payloads of the benchmark: deliveries of ActivityPub activities, in the forms of the engines compared. All
// forms carry the same arguments. A seed decides everything, so that every contender of a round gets the same jobs.
package jobs

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// Class is the class of every job.
const Class = "ActivityPub::DeliveryWorker"

// Delivery is one job's arguments.
type Delivery struct {
	Body    string // the activity, as it is sent
	Account int64
	Inbox   string
}

// Maker makes deliveries. It is not safe for concurrent use.
type Maker struct {
	rng      *mathrand.Rand
	min, max int
	accounts []int64
	inboxes  []string
	next     int
}

// NewMaker makes bodies of minBytes to maxBytes, evenly drawn, from the accounts, to the inboxes in turn.
func NewMaker(seed uint64, minBytes, maxBytes int, accounts []int64, inboxes []string) *Maker {
	return &Maker{rng: mathrand.New(mathrand.NewPCG(seed, 0)), min: minBytes, max: maxBytes, accounts: accounts, inboxes: inboxes} //nolint:gosec // not secret
}

// Next makes one delivery.
func (m *Maker) Next() Delivery {
	account := m.accounts[m.next%len(m.accounts)]
	inbox := m.inboxes[m.next%len(m.inboxes)]
	m.next++
	return Delivery{Body: m.body(account), Account: account, Inbox: inbox}
}

var words = strings.Fields(`harbour lantern orchard violet tram granite kettle meadow thunder ferry copper willow saffron compass attic
	marble gravel otter juniper parade cellar linen tide ember quarry heron bakery tunnel violin café Straße smörgåsbord señor 海 夜 ветер`)

// body is a Create of a Note as Mastodon writes it, filled with words up to its size. Mark-up and quotes are part of it, for they are what
// makes a JSON string inside a JSON document expensive to read.
func (m *Maker) body(account int64) string {
	size := m.min + m.rng.IntN(m.max-m.min+1)
	id := 100_000_000_000_000_000 + m.rng.Int64N(1<<50)
	actor := "https://local.test/users/user" + strconv.FormatInt(account, 10)
	status := actor + "/statuses/" + strconv.FormatInt(id, 10)
	var b strings.Builder
	b.Grow(size + 64)
	b.WriteString(`{"@context":["https://www.w3.org/ns/activitystreams",{"ostatus":"http://ostatus.org#","atomUri":"ostatus:atomUri",` +
		`"sensitive":"as:sensitive","toot":"http://joinmastodon.org/ns#","votersCount":"toot:votersCount"}],"id":"`)
	b.WriteString(status + `/activity","type":"Create","actor":"` + actor + `","published":"2026-11-21T10:00:00Z",` +
		`"to":["https://www.w3.org/ns/activitystreams#Public"],"cc":["` + actor + `/followers"],"object":{"id":"` + status +
		`","type":"Note","summary":null,"inReplyTo":null,"attributedTo":"` + actor + `","sensitive":false,"content":"\u003cp\u003e`)
	const end = `\u003c/p\u003e"}}`
	for b.Len() < size-len(end)-24 {
		switch word := words[m.rng.IntN(len(words))]; m.rng.IntN(12) {
		case 0:
			b.WriteString(`<a href=\"https://tag.test/` + word + `\">` + word + `</a> `)
		case 1:
			b.WriteString(`\"` + word + `\" `)
		default:
			b.WriteString(word + " ")
		}
	}
	b.WriteString(end)
	return b.String()
}

// Args is the JSON array of the arguments, as in a Sidekiq payload.
func (d Delivery) Args() string {
	return "[" + quote(d.Body) + "," + strconv.FormatInt(d.Account, 10) + "," + quote(d.Inbox) + ",{}]"
}

// Sidekiq is the payload as Sidekiq 6.4's client writes it.
func (d Delivery) Sidekiq(queue string, now time.Time) string {
	at := strconv.FormatFloat(float64(now.UnixMicro())/1e6, 'f', -1, 64)
	return `{"retry":16,"queue":"` + queue + `","dead":false,"class":"` + Class + `","args":` + d.Args() +
		`,"jid":"` + ID() + `","created_at":` + at + `,"enqueued_at":` + at + `}`
}

// Gocraft is the payload as gocraft/work's enqueuer writes it.
func (d Delivery) Gocraft(name string, now time.Time) string {
	return fmt.Sprintf(`{"name":%q,"id":%q,"t":%d,"args":{"body":%s,"account":%d,"inbox":%s,"options":{}}}`,
		name, ID(), now.Unix(), quote(d.Body), d.Account, quote(d.Inbox))
}

// ID is a random job id of Sidekiq's form: 24 hexadecimal digits.
func ID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// quote writes a JSON string as Ruby does: without escaping <, > and &.
func quote(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string and a Builder: cannot fail
	return strings.TrimSuffix(b.String(), "\n")
}

// AsynqPayload is the payload of an asynq task: the arguments as a JSON object.
func (d Delivery) AsynqPayload() []byte {
	return fmt.Appendf(nil, `{"body":%s,"account":%d,"inbox":%s,"options":{}}`, quote(d.Body), d.Account, quote(d.Inbox))
}
