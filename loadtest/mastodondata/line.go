package mastodondata

import (
	"fmt"
	"time"
)

// Line is a release line of Mastodon whose schema and job form are made.
type Line string

// The release lines. Each stands for what changed with it: 4.3 has neither account URI schemes nor keypairs, and Sidekiq 6; 4.5
// brought numeric account URIs and Sidekiq 8; 4.7 moved the private keys into keypairs, encrypted.
const (
	Line43 Line = "4.3"
	Line45 Line = "4.5"
	Line47 Line = "4.7"
)

// SchemaVersion is the newest row of schema_migrations of the line's first release (a release candidate for 4.3 and 4.5).
func (l Line) SchemaVersion() string {
	switch l {
	case Line43:
		return "20240916190140"
	case Line45:
		return "20251023210145"
	default:
		return "20260812154114"
	}
}

// hasSchemes says whether accounts.id_scheme exists.
func (l Line) hasSchemes() bool { return l != Line43 }

// hasKeypairs says whether local keys can be in keypairs. (4.6 has the table, for remote keys.)
func (l Line) hasKeypairs() bool { return l == Line47 }

// milliseconds says whether its Sidekiq writes times as integer milliseconds (8.x) or float seconds (6.x, 7.x).
func (l Line) milliseconds() bool { return l != Line43 }

// check says whether the line is known.
func (l Line) check() error {
	switch l {
	case Line43, Line45, Line47:
		return nil
	default:
		return fmt.Errorf("unknown release line %q, want 4.3, 4.5 or 4.7", string(l))
	}
}

// snowflake is an id as Mastodon's timestamp_id makes them: milliseconds in the upper 48 bits, a sequence in the lower 16.
func snowflake(at time.Time, sequence int) int64 { return at.UnixMilli()<<16 | int64(sequence&0xffff) }
