package budgetsum

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/queueville/queueville/internal/mastodonenv"
)

// Input is everything a sum is made of.
type Input struct {
	At      time.Time
	Server  *Server
	Pooler  *Pooler // nil: Mastodon talks to PostgreSQL itself
	Unknown bool    // a pooler is in between and does not tell its sizes
	Replica *Server // nil for none
	// SameServer: the replica is the same server as the primary, so Rails' second pools count there, too.
	SameServer bool
	Holders    []Holder
	HeadRoom   int // connections kept free for what nobody measured; negative for the default
	Stored     *Stored
	Ledger     *Ledger
	Problems   []mastodonenv.Problem // found on the way
}

// Stored is the budget that a person has set.
type Stored struct {
	Connections int       `json:"connections"`
	MinPerHost  int       `json:"min_per_host"`
	SetBy       string    `json:"set_by,omitempty"`
	SetAt       time.Time `json:"set_at,omitzero"`
	Reason      string    `json:"reason,omitempty"`
}

// Ledger is who has how many of the budget's connections now.
type Ledger struct {
	Recovering bool    `json:"recovering,omitempty"` // nothing is granted until PostgreSQL has confirmed what is open
	Reserve    int     `json:"reserve"`              // of the budget, kept to confirm with
	Doubtful   int     `json:"doubtful,omitempty"`   // leases that ended and are not confirmed to be closed
	Free       int     `json:"free"`
	Leases     []Lease `json:"leases"`
}

// Lease is one host's part.
type Lease struct {
	Host    string    `json:"host"`
	Leased  int       `json:"leased"`
	Demand  int       `json:"demand"`
	Ruby    int       `json:"for_child_processes,omitempty"` // of Leased
	State   string    `json:"state"`
	Expires time.Time `json:"expires,omitzero"`
}

// RowKind says what a row does in the sum.
type RowKind string

// The kinds of rows. "less" rows are subtracted; "part" rows are what a "less" row consists of; "note" rows only say what is open.
const (
	RowLimit RowKind = "limit"
	RowLess  RowKind = "less"
	RowPart  RowKind = "part"
	RowNote  RowKind = "note"
	RowTotal RowKind = "total"
)

// Row is one line of the sum.
type Row struct {
	Kind    RowKind `json:"kind"`
	Key     string  `json:"key"` // for programs, e.g. "max_connections", "web"
	Label   string  `json:"label"`
	Host    string  `json:"host,omitempty"`
	Name    string  `json:"name,omitempty"`
	How     string  `json:"how,omitempty"` // "2 × 5"
	CanHold *int    `json:"connections,omitempty"`
	Open    *int    `json:"open_now,omitempty"`
	Origin  string  `json:"origin,omitempty"` // where the number comes from
}

// Table is one sum from top to bottom.
type Table struct {
	Title string `json:"title"`
	Rows  []Row  `json:"rows"`
}

// Sum is the whole answer.
type Sum struct {
	At        time.Time             `json:"at"`
	Tables    []Table               `json:"tables"` // the first one makes the budget
	Available int                   `json:"available"`
	CanHold   int                   `json:"others_can_hold"` // everybody but Queueville, head-room not included
	HeadRoom  int                   `json:"head_room"`
	Found     *int                  `json:"found,omitempty"`  // nil when it cannot be found
	Stored    *Stored               `json:"stored,omitempty"` // nil when none is
	Spare     *int                  `json:"found_less_stored,omitempty"`
	HostsFit  *int                  `json:"hosts_that_fit,omitempty"` // with their minimum
	Ledger    *Ledger               `json:"ledger,omitempty"`
	Server    *Server               `json:"postgresql"`
	Pooler    *Pooler               `json:"pgbouncer,omitempty"`
	Replica   *Server               `json:"replica,omitempty"`
	Holders   []Holder              `json:"holders"`
	Promises  []string              `json:"not_promised,omitempty"`
	Warnings  []mastodonenv.Problem `json:"warnings"`
}

// DefaultMinPerHost is the minimum that `queueville budget set` takes when none is given.
const DefaultMinPerHost = 5

// Make adds it up. It is pure: the same input gives the same sum.
func Make(in Input) *Sum {
	s := &Sum{
		At: in.At, Server: in.Server, Pooler: in.Pooler, Replica: in.Replica, Stored: in.Stored, Ledger: in.Ledger,
		Holders: slices.Clone(in.Holders), Warnings: slices.Clone(in.Problems),
	}
	if in.SameServer && in.Replica != nil {
		s.Holders = append(s.Holders, replicaHolders(in.Holders)...)
	}
	sortHolders(s.Holders)
	m := &maker{Sum: s, in: in}
	m.main()
	if in.Pooler != nil || in.Unknown {
		m.behindPooler()
	}
	if in.Replica != nil && !in.SameServer {
		m.replica()
	}
	m.judgeStored()
	if s.Warnings == nil {
		s.Warnings = []mastodonenv.Problem{}
	}
	return s
}

// maker holds the table that is being written.
type maker struct {
	*Sum
	in   Input
	rows []Row
}

func (m *maker) row(r Row) { m.rows = append(m.rows, r) }

func (m *maker) end(title string) {
	m.Tables = append(m.Tables, Table{Title: title, Rows: m.rows})
	m.rows = nil
}

func (m *maker) warn(name, hint, format string, args ...any) {
	m.Warnings = append(m.Warnings, mastodonenv.Problem{Severity: mastodonenv.SeverityWarning, Name: name, What: fmt.Sprintf(format, args...), Hint: hint})
}

// main is the sum that the budget comes from: of PostgreSQL's connections, or of PgBouncer's clients.
func (m *maker) main() {
	server, sessions := m.in.Server, m.in.Server.Sessions
	title := serverTitle("PostgreSQL", server)
	switch {
	case m.in.Pooler != nil:
		p := m.in.Pooler
		sessions = withoutConsole(p.Clients)
		title = fmt.Sprintf("PgBouncer %s at %s · pool_mode %s · client connections", p.Version, server.Address, p.Mode)
		m.Available = p.MaxClients
		m.row(Row{Kind: RowLimit, Key: "max_client_conn", Label: "max_client_conn", CanHold: &p.MaxClients, Open: total(sessions), Origin: "SHOW CONFIG"})
	case m.in.Unknown:
		title = "a pooler at " + server.Address + " · client connections"
		sessions = nil // PostgreSQL sees the pooler's connections, not its clients'
		m.row(Row{Kind: RowLimit, Key: "max_client_conn", Label: "max_client_conn", Origin: "not known: the pooler does not tell this role"})
	default:
		m.Available = m.limits(server)
	}
	seen := classify(sessions, server.Role)
	mastodon := m.mastodon(seen)
	others := m.others(seen, true)
	m.CanHold = mastodon + others
	if m.in.Unknown {
		m.end(title)
		return
	}
	m.headRoom()
	found := max(0, m.Available-m.CanHold-m.HeadRoom)
	m.Found = &found
	m.row(Row{Kind: RowTotal, Key: "found", Label: "found for Queueville", CanHold: &found, Open: &seen.queueville, Origin: "what is left"})
	m.storedRows(found)
	m.end(title)
	if over := m.CanHold + m.HeadRoom - m.Available; over > 0 {
		what := "max_connections"
		if m.in.Pooler != nil {
			what = "max_client_conn"
		}
		m.warn(what, "make pools or processes fewer, or raise "+what, "others can hold %d and %d are head-room, %d more than the %d there are: nothing is left for Queueville",
			m.CanHold, m.HeadRoom, over, m.Available)
	}
}

func serverTitle(what string, s *Server) string {
	return fmt.Sprintf("%s %s at %s · role %s", what, s.Version, s.Address, s.Role)
}

// limits writes what a server allows everybody together.
func (m *maker) limits(s *Server) int {
	measured := "measured"
	m.row(Row{Kind: RowLimit, Key: "max_connections", Label: "max_connections", CanHold: &s.MaxConnections, Origin: measured})
	m.row(Row{Kind: RowLess, Key: "superuser_reserved_connections", Label: "superuser_reserved_connections", CanHold: &s.SuperuserReserved, Origin: measured})
	if s.Reserved > 0 {
		m.row(Row{Kind: RowLess, Key: "reserved_connections", Label: "reserved_connections", CanHold: &s.Reserved, Origin: measured})
	}
	everybody := s.Available()
	available := everybody
	m.row(Row{Kind: RowTotal, Key: "available", Label: "for everybody", CanHold: &everybody, Open: total(s.Sessions)})
	for _, limit := range []struct {
		n         int
		key, text string
	}{{s.RoleLimit, "role_limit", "of role " + s.Role}, {s.DatabaseLimit, "database_limit", "of database " + s.Database}} {
		if limit.n > 0 && limit.n < available {
			less := available - limit.n
			m.row(Row{Kind: RowLess, Key: limit.key, Label: "beyond the limit " + limit.text, CanHold: &less, Origin: fmt.Sprintf("CONNECTION LIMIT %d", limit.n)})
			available = limit.n
		}
	}
	return available
}

// mastodon writes what Mastodon's own processes can hold, and what is open of it.
func (m *maker) mastodon(seen sessionsByOwner) int {
	canHold, perRole := 0, map[Role]int{}
	for i := range m.Holders {
		h := &m.Holders[i]
		perRole[h.Role] += h.CanHold()
		if h.Role != RoleOther {
			canHold += h.CanHold()
		}
	}
	open := seen.unnamed
	for _, r := range roles {
		open += seen.named[r]
	}
	counted := canHold
	origin := "its open ones carry no name, so they are counted together"
	if open > canHold {
		counted = open
		origin = "more are open than is known of, so the open ones count"
		m.warn("measured", "is tootctl or a migration running? name what is missing with --units or --also",
			"%d connections of Mastodon's role are open, and all that is known of can hold %d", open, canHold)
	}
	var openNow *int
	if !m.in.Unknown {
		openNow = &open
	}
	m.row(Row{Kind: RowLess, Key: "mastodon", Label: "Mastodon", CanHold: &counted, Open: openNow, Origin: origin})
	m.parts(func(r Role) bool { return r != RoleOther })
	for _, r := range roles {
		if n := seen.named[r]; n > 0 {
			m.row(Row{Kind: RowNote, Key: string(r) + "_open", Label: "named as " + string(r), Open: &n, Origin: "application_name"})
			if n > perRole[r] {
				m.warn(string(r), "name what is missing with --units or --also", "%d of its connections are open, and what is known of it can hold %d", n, perRole[r])
			}
		}
	}
	if len(seen.clients) > 1 {
		for _, c := range seen.clients {
			m.row(Row{Kind: RowNote, Key: "client", Label: "of these from " + clientName(c.Client), Open: &c.Count, Origin: "measured"})
		}
	}
	return counted
}

// parts writes a line for each holder of some roles.
func (m *maker) parts(of func(Role) bool) {
	for i := range m.Holders {
		h := &m.Holders[i]
		if !of(h.Role) {
			continue
		}
		n := h.CanHold()
		m.row(Row{
			Kind: RowPart, Key: string(h.Role), Label: string(h.Role), Host: h.Host, Name: h.Name, How: fmt.Sprintf("%d × %d", h.Processes, h.Each),
			CanHold: &n, Origin: h.Origin,
		})
	}
}

// maxOthers is how many kinds of strangers get a line of their own.
const maxOthers = 12

// others writes the connections of nobody known. What they can hold nobody says unless a person does (stated), so what is open counts.
func (m *maker) others(seen sessionsByOwner, stated bool) int {
	n, said := 0, 0
	for _, s := range seen.others {
		n += s.Count
	}
	for i := range m.Holders {
		if stated && m.Holders[i].Role == RoleOther {
			said += m.Holders[i].CanHold()
		}
	}
	counted, origin := max(n, said), "measured; what they can hold is not known"
	switch {
	case counted == 0:
		return 0
	case said > n:
		origin = "assumed: --also"
	case said > 0:
		origin = "measured, and not fewer than assumed"
	}
	m.row(Row{Kind: RowLess, Key: "others", Label: "others", CanHold: &counted, Open: &n, Origin: origin})
	if stated {
		m.parts(func(r Role) bool { return r == RoleOther })
	}
	rest := 0
	for i, s := range seen.others {
		if i >= maxOthers {
			rest += s.Count
			continue
		}
		m.row(Row{Kind: RowNote, Key: "other", Label: otherLabel(s), Open: &s.Count, Origin: otherOrigin(s)})
	}
	if rest > 0 {
		m.row(Row{Kind: RowNote, Key: "other", Label: "and more", Open: &rest, Origin: "--json has all"})
	}
	return counted
}

func otherLabel(s Session) string {
	if s.Application == "" {
		return "no application_name"
	}
	return s.Application
}

func otherOrigin(s Session) string {
	parts := []string{"role " + s.Role, "database " + s.Database, "from " + clientName(s.Client)}
	return strings.Join(parts, ", ")
}

func clientName(address string) string {
	if address == "" {
		return "a local socket, or hidden"
	}
	return address
}

// The head-room without --head-room: a twentieth, and not less than what a migration, tootctl and psql take together.
const (
	headRoomShare = 20
	minHeadRoom   = 5
)

func (m *maker) headRoom() {
	origin := "--head-room: migrations, tootctl, psql"
	m.HeadRoom = m.in.HeadRoom
	if m.HeadRoom < 0 {
		m.HeadRoom = max(minHeadRoom, (m.Available+headRoomShare-1)/headRoomShare)
		origin = fmt.Sprintf("5 %% of %d, at least %d: migrations, tootctl, psql", m.Available, minHeadRoom)
	}
	m.row(Row{Kind: RowLess, Key: "head_room", Label: "head-room", CanHold: &m.HeadRoom, Origin: origin})
}

// storedRows compare what is stored with what was found.
func (m *maker) storedRows(found int) {
	if m.in.Stored == nil {
		return
	}
	st := m.in.Stored
	spare := found - st.Connections
	m.Spare = &spare
	m.row(Row{Kind: RowNote, Key: "stored", Label: "stored", CanHold: &st.Connections, Origin: storedOrigin(st)})
	label, n, origin := "left over", spare, "found, and not in the stored budget"
	switch {
	case spare == 0:
		return
	case spare < 0:
		label, n, origin = "too many", -spare, "stored, and not found to be free"
	}
	m.row(Row{Kind: RowNote, Key: "difference", Label: label, CanHold: &n, Origin: origin})
}

func storedOrigin(st *Stored) string {
	var parts []string
	if st.SetBy != "" {
		parts = append(parts, "by "+st.SetBy)
	}
	if !st.SetAt.IsZero() {
		parts = append(parts, st.SetAt.UTC().Format("2006-01-02 15:04 UTC"))
	}
	if st.Reason != "" {
		parts = append(parts, "“"+st.Reason+"”")
	}
	return strings.Join(parts, ", ")
}

// total counts connections.
func total(list []Session) *int {
	n := 0
	for _, s := range list {
		n += s.Count
	}
	return &n
}
