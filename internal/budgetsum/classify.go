package budgetsum

import (
	"slices"
	"strings"
)

// sessionsByOwner are connections by whose they are.
type sessionsByOwner struct {
	queueville int
	named      map[Role]int // of Mastodon's role, with a name that tells
	unnamed    int          // of Mastodon's role, without a name: Puma, Sidekiq and streaming set application_name to ''
	clients    []Session    // Mastodon's by address
	others     []Session    // nobody known
}

// prefixes of application_name, for those who have set one (PGAPPNAME, or a name in DATABASE_URL).
var prefixes = []struct {
	prefix string
	role   Role
}{
	{"puma", RoleWeb},
	{"mastodon-web", RoleWeb},
	{"sidekiq", RoleSidekiq},
	{"mastodon-sidekiq", RoleSidekiq},
	{"node", RoleStreaming},
	{"streaming", RoleStreaming},
	{"mastodon-streaming", RoleStreaming},
}

// ownName is what the connections that ask the questions call themselves.
const ownName = "queueville/budget"

// withoutConsole leaves out the question's own connection, which PgBouncer counts among its clients.
func withoutConsole(list []Session) []Session {
	return slices.DeleteFunc(slices.Clone(list), func(s Session) bool { return s.Application == ownName })
}

// classify says whose each connection is. role is Mastodon's; "" makes all but Queueville's strangers'.
func classify(list []Session, role string) sessionsByOwner {
	out := sessionsByOwner{named: map[Role]int{}}
	clients := map[string]int{}
	for _, s := range list {
		if strings.HasPrefix(s.Application, "queueville") {
			out.queueville += s.Count
			continue
		}
		owner, known := ownerOf(s, role)
		switch {
		case !known:
			out.others = append(out.others, s)
			continue
		case owner == "":
			out.unnamed += s.Count
		default:
			out.named[owner] += s.Count
		}
		clients[s.Client] += s.Count
	}
	for client, n := range clients {
		out.clients = append(out.clients, Session{Client: client, Count: n})
	}
	sortSessions(out.clients)
	out.clients = out.clients[:min(len(out.clients), maxOthers)]
	out.others = mergeOthers(out.others)
	return out
}

// ownerOf is "" for a connection of Mastodon's that does not say which; known is false for strangers'.
func ownerOf(s Session, role string) (owner Role, known bool) {
	if s.Role != role || role == "" {
		return "", false
	}
	name := strings.ToLower(strings.TrimSpace(s.Application))
	if name == "" {
		return "", true
	}
	for _, p := range prefixes {
		if strings.HasPrefix(name, p.prefix) {
			return p.role, true
		}
	}
	return "", false
}

// mergeOthers puts together what differs by nothing that is shown, as names with a process id in them do.
func mergeOthers(list []Session) []Session {
	counts := map[Session]int{}
	for _, s := range list {
		n := s.Count
		s.Count, s.Application = 0, withoutNumber(s.Application)
		counts[s] += n
	}
	out := make([]Session, 0, len(counts))
	for s, n := range counts {
		s.Count = n
		out = append(out, s)
	}
	sortSessions(out)
	return out
}

// withoutNumber drops a trailing process id: "worker 123" and "worker[45]" are "worker".
func withoutNumber(name string) string {
	cut := strings.TrimRight(name, "0123456789[]()#: ")
	if cut == "" {
		return name
	}
	return cut
}
