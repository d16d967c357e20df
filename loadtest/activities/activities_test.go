package activities

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/go-fed/activity/streams"
)

var (
	alice = Author{Username: "alice", URI: "https://local.test/users/alice", Followers: "https://local.test/users/alice/followers"}
	when  = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
)

func TestActivities(t *testing.T) {
	cases := map[string]struct {
		make func(*Maker) ([]byte, error)
		want string
	}{
		"a post":      {func(m *Maker) ([]byte, error) { return m.Create(alice, 1) }, "Create"},
		"a boost":     {func(m *Maker) ([]byte, error) { return m.Announce(alice, 2, "https://a.test/1") }, "Announce"},
		"a favourite": {func(m *Maker) ([]byte, error) { return m.Like(alice, 3, "https://a.test/1") }, "Like"},
		"a follow": {func(m *Maker) ([]byte, error) {
			return m.Follow(alice, "https://local.test/4", "https://a.test/users/b")
		}, "Follow"},
		"a deletion":           {func(m *Maker) ([]byte, error) { return m.Delete(alice, 5) }, "Delete"},
		"an account's removal": {func(m *Maker) ([]byte, error) { return m.DeleteActor(alice) }, "Delete"},
		"an edit":              {func(m *Maker) ([]byte, error) { return m.Update(alice, 6) }, "Update"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := tc.make(NewMaker(1, when))
			if err != nil {
				t.Fatal(err)
			}
			var document map[string]any
			if err := json.Unmarshal(got, &document); err != nil {
				t.Fatal(err)
			}
			parsed, err := streams.ToType(t.Context(), document)
			if err != nil || parsed.GetTypeName() != tc.want {
				t.Errorf("ToType = %v, %v", parsed, err)
			}
			again, err := tc.make(NewMaker(1, when))
			if err != nil || !bytes.Equal(got, again) {
				t.Error("the same seed made something else")
			}
		})
	}
}

func TestPostsHaveRealSizes(t *testing.T) {
	m := NewMaker(1, when)
	var sum int
	for i := range 300 {
		post, err := m.Create(alice, int64(i))
		if err != nil {
			t.Fatal(err)
		}
		if len(post) < 1000 || len(post) > 5000 {
			t.Errorf("a post of %d bytes", len(post))
		}
		sum += len(post)
	}
	if mean := sum / 300; mean < 1800 || mean > 3200 {
		t.Errorf("posts have %d bytes on average", mean)
	}
}
