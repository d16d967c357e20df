package loadtest

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/queueville/queueville/loadtest/activities"
	"github.com/queueville/queueville/loadtest/mastodondata"
)

// Delivery is one job and where it goes.
type Delivery struct {
	mastodondata.Delivery
	Host int // index into World.Hosts
}

// Deliveries makes n delivery jobs as a server writes them whose authors are followed all over world: activity by activity, one
// job for each inbox that it reaches, nearly all on push, a suspended account's removal on pull. inbox gives a host's shared inbox.
// The same arguments give the same jobs, ids included; now dates the posts.
func Deliveries(world *World, data *mastodondata.Data, n int, seed uint64, now time.Time, inbox func(host string) string) ([]Delivery, error) {
	m := &deliveryMaker{
		rng:   rand.New(rand.NewPCG(seed, 0x64656c6976657279)),
		maker: activities.NewMaker(seed, now),
		jobs:  mastodondata.NewJobs(data.Line, seed),
		data:  data,
	}
	inboxes := make([]string, len(world.Hosts))
	for i := range world.Hosts {
		inboxes[i] = inbox(world.Hosts[i].Name)
	}
	list := make([]Delivery, 0, n)
	for len(list) < n {
		activity, err := m.next()
		if err != nil {
			return nil, err
		}
		for _, host := range world.Reach(m.rng) {
			if len(list) == n {
				break
			}
			job := m.jobs.New(activity.body, activity.account, inboxes[host], activity.options)
			if activity.low {
				job.Low()
			}
			list = append(list, Delivery{Delivery: job, Host: host})
		}
	}

	return list, nil
}

// deliveryMaker makes one activity after the other.
type deliveryMaker struct {
	rng     *rand.Rand
	maker   *activities.Maker
	jobs    *mastodondata.Jobs
	data    *mastodondata.Data
	number  int64
	removed int // accounts before this one have been looked at by suspended
}

// sent is an activity as it leaves.
type sent struct {
	body    *mastodondata.Body
	account int64
	options string // JSON; "" for none
	low     bool
}

// next draws the next activity: of ten, seven posts, one of them for followers only, the rest boosts, edits and deletions; every
// thirtieth is the removal of a suspended account, as long as there is one.
func (m *deliveryMaker) next() (sent, error) {
	m.number++
	if m.number%30 == 7 {
		if account := m.suspended(); account != nil {
			raw, err := m.maker.DeleteActor(author(account))

			return m.sent(raw, err, account, "", true)
		}
	}
	account := &m.data.Accounts[m.rng.IntN(len(m.data.Accounts))]
	for account.Suspended && m.active() {
		account = &m.data.Accounts[m.rng.IntN(len(m.data.Accounts))]
	}
	by, status := author(account), 115_000_000_000_000_000+m.number
	switch draw := m.rng.IntN(10); {
	case draw < 1:
		raw, err := m.maker.Create(by, status)

		return m.sent(raw, err, account, `{"synchronize_followers":true}`, false)
	case draw < 7:
		raw, err := m.maker.Create(by, status)

		return m.sent(raw, err, account, `{"synchronize_followers":false}`, false)
	case draw < 8:
		raw, err := m.maker.Announce(by, status, fmt.Sprintf("https://elsewhere.test/users/somebody/statuses/%d", status))

		return m.sent(raw, err, account, `{"synchronize_followers":false}`, false)
	case draw < 9:
		raw, err := m.maker.Update(by, status)

		return m.sent(raw, err, account, `{}`, false)
	default:
		raw, err := m.maker.Delete(by, status)

		return m.sent(raw, err, account, "", false)
	}
}

func (m *deliveryMaker) sent(raw []byte, err error, account *mastodondata.Account, options string, low bool) (sent, error) {
	if err != nil {
		return sent{}, fmt.Errorf("make activity %d: %w", m.number, err)
	}

	return sent{body: mastodondata.NewBody(raw), account: account.ID, options: options, low: low}, nil
}

// suspended returns the next suspended account, each once: an account is removed once, and its Delete has no date that would tell
// a second one from a duplicate. Nil when all are gone.
func (m *deliveryMaker) suspended() *mastodondata.Account {
	for m.removed < len(m.data.Accounts) {
		account := &m.data.Accounts[m.removed]
		m.removed++
		if account.Suspended {
			return account
		}
	}

	return nil
}

// active says whether any account is not suspended.
func (m *deliveryMaker) active() bool {
	for i := range m.data.Accounts {
		if !m.data.Accounts[i].Suspended {
			return true
		}
	}

	return false
}

func author(account *mastodondata.Account) activities.Author {
	return activities.Author{Username: account.Username, URI: account.URI, Followers: account.Followers}
}
