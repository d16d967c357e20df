package activitypub

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// TestFollowersHeader: spec 3.8.
func TestFollowersHeader(t *testing.T) {
	for _, version := range []string{"4.3.0", "4.7.0"} {
		t.Run(version, func(t *testing.T) {
			b := setup(t, version)
			r := b.receiver("a.test", nil)
			origin := "https://" + r.dest()
			want := [32]byte{}
			for i, uri := range []string{
				origin, origin + "/users/1", origin + "/users/ü", origin + "/a%_b", // these are on that server
				origin + "x/users/1", strings.ToUpper(origin) + "/users/1", "https://b.test/users/1", "http" + origin[5:] + "/users/1", "", // these are not
			} {
				b.exec(`INSERT INTO accounts (id, username, domain, uri, created_at, updated_at) VALUES ($1, $2, 'x', $3, now(), now())`,
					1000+i, fmt.Sprint("f", i), uri)
				b.exec(`INSERT INTO follows (account_id, target_account_id, created_at, updated_at) VALUES ($1, $2, now(), now())`, 1000+i, b.data.Accounts[0].ID)
				if i < 4 {
					for j, x := range sha256.Sum256([]byte(uri)) {
						want[j] ^= x
					}
				}
			}
			job := b.job(r.inbox())
			job.Options.SynchronizeFollowers = true
			if got := b.deliver(job); got.Outcome != Delivered {
				t.Fatalf("Deliver = %+v", got)
			}
			req := r.requests()[0]
			acct := b.data.Accounts[0]
			header := fmt.Sprintf(`collectionId="%s/followers", digest="%s", url="https://local.test/users/%s/followers_synchronization"`,
				acct.URI, hex.EncodeToString(want[:]), acct.Username)
			if got := req.header.Get("Collection-Synchronization"); got != header {
				t.Errorf("Collection-Synchronization: %s, want %s", got, header)
			}
			order := map[string]string{
				"4.3.0": "(request-target) host date digest content-type collection-synchronization",
				"4.7.0": "host date content-type collection-synchronization digest (request-target)",
			}[version]
			if req.signed != nil || !strings.Contains(req.header.Get("Signature"), `headers="`+order+`"`) {
				t.Errorf("Signature: %s: %v", req.header.Get("Signature"), req.signed)
			}
			// An account with a numeric URI still has its sync URL by name; a server without followers gets 32 zero bytes.
			job.AccountID = b.data.Accounts[2].ID
			b.deliver(job)
			got := r.requests()[1].header.Get("Collection-Synchronization")
			if !strings.Contains(got, `url="https://local.test/users/`+b.data.Accounts[2].Username+`/`) || !strings.Contains(got, `digest="`+strings.Repeat("0", 64)+`"`) {
				t.Errorf("Collection-Synchronization: %s", got)
			}
			b.config.DisableFollowersSync = true
			b.deliver(job)
			if got := r.requests()[2].header.Get("Collection-Synchronization"); got != "" {
				t.Errorf("DISABLE_FOLLOWERS_SYNCHRONIZATION: %s", got)
			}
		})
	}
}

func TestURIPrefix(t *testing.T) {
	for uri, want := range map[string]string{
		"https://a.test/x": "https://a.test", "http://a.test": "http://a.test", "https://a.test:1/": "https://a.test:1",
		"https:///x": "", "gopher://a/": "", "": "", "https://": "", "HTTPS://a.test/": "",
	} {
		if got := uriPrefix(uri); got != want {
			t.Errorf("uriPrefix(%q) = %q, want %q", uri, got, want)
		}
	}
}
