package queues

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/queueville/queueville/internal/redistest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := redistest.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the shared redis-server:", err)
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines left over:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// now is a whole second: the case in which a float without a point would be printed.
var now = time.Unix(1_795_291_060, 0)

func newStore(tb testing.TB) (*Store, *redis.Client) {
	tb.Helper()
	client := redistest.Client(tb)
	return NewStore(client, ""), client
}

func newSession(tb testing.TB, s *Store, identity string) *Session {
	tb.Helper()
	session, _, err := s.Register(tb.Context(), Holder{Identity: identity, Hostname: "h", PID: 1}, time.Minute, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return session
}

// deliveryPayload looks like one of Mastodon's: the activity is one long string full of escaped quotes. It is size bytes
// or a little more.
func deliveryPayload(class, jid string, size int) string {
	var body strings.Builder
	body.WriteString(`{\"@context\":[\"https://www.w3.org/ns/activitystreams\",{\"ostatus\":\"http://ostatus.org#\",\"sensitive\":\"as:sensitive\"}],\"id\":\"https://social.example/users/alice/statuses/1/activity\",\"type\":\"Create\",\"content\":\"`)
	for i := 0; body.Len() < size-420; i++ {
		fmt.Fprintf(&body, `\\u003cp\\u003eword %d, \\\"quoted\\\" text, and a link to https://host%d.example/path\\u003c/p\\u003e\",\"k%d\":\"`, i, i, i)
	}
	return `{"retry":16,"queue":"push","dead":false,"class":"` + class + `","args":["` + body.String() +
		`\"}",109301234567890123,"https://host7.example/inbox",{"synchronize_followers":true}],"jid":"` + jid +
		`","created_at":1795291060.2769928,"enqueued_at":1795291060.2779928}`
}

func jid(n int) string { return fmt.Sprintf("%024x", n) }

func push(tb testing.TB, c *redis.Client, key string, payloads ...string) {
	tb.Helper()
	ctx := context.WithoutCancel(tb.Context())
	for part := range slices.Chunk(payloads, 1000) {
		values := make([]any, len(part))
		for i, p := range part {
			values[i] = p
		}
		if err := c.LPush(ctx, key, values...).Err(); err != nil {
			tb.Fatal(err)
		}
	}
}

func list(tb testing.TB, c *redis.Client, key string) []string {
	tb.Helper()
	l, err := c.LRange(tb.Context(), key, 0, -1).Result()
	if err != nil {
		tb.Fatal(err)
	}
	slices.Reverse(l) // the next to run first
	return l
}

func payloadsOf(jobs []Fetched) []string {
	var p []string
	for _, j := range jobs {
		p = append(p, j.Payload)
	}
	return p
}

func equal(tb testing.TB, what string, got, want []string) {
	tb.Helper()
	if !slices.Equal(got, want) {
		tb.Errorf("%s = %q, want %q", what, got, want)
	}
}
