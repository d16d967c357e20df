package budgetsum

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/queueville/queueville/internal/mastodonenv"
)

// maxAlso bounds a person's word on one host.
const maxAlso = 100

// ParseAlso reads what a person says about a host whose units are not here: "beta: web 3x5, streaming 2, sidekiq 25, other 4".
// "N x M" is N processes with M connections each. A number alone is, for web and streaming, so many processes with the pool that
// env gives them; for sidekiq one process with so many threads; for other so many connections. 0 says that there is none.
func ParseAlso(text string, env *Settings) ([]Holder, error) {
	host, list, ok := strings.Cut(text, ":")
	host = strings.TrimSpace(host)
	if !ok || host == "" || len(host) > 253 || strings.ContainsAny(host, " \t,=") {
		return nil, fmt.Errorf("%q is not HOST: ROLE NUMBER, …", shorten(text))
	}
	var out []Holder
	for part := range strings.SplitSeq(list, ",") {
		fields := strings.Fields(strings.NewReplacer("×", " x ", "x", " x ", "X", " x ").Replace(afterRole(part)))
		role := Role(roleWord(part))
		if len(fields) != 1 && (len(fields) != 3 || fields[1] != "x") {
			return nil, fmt.Errorf("%q is not ROLE NUMBER or ROLE N x M", shorten(strings.TrimSpace(part)))
		}
		n, err := strconv.Atoi(fields[0])
		each, hasEach := 0, len(fields) == 3
		if err == nil && hasEach {
			each, err = strconv.Atoi(fields[2])
		}
		if err != nil || n < 0 || each < 0 || n > maxEach || each > maxEach || hasEach && n > maxProcesses {
			return nil, fmt.Errorf("%q has a number that is none", shorten(strings.TrimSpace(part)))
		}
		h, err := env.also(role, n, each, hasEach)
		if err != nil {
			return nil, err
		}
		h.Host, h.Assumed = host, true
		if out = append(out, h); len(out) > maxAlso {
			return nil, fmt.Errorf("more than %d entries for %s", maxAlso, host)
		}
	}
	return out, nil
}

// roleWord is the first word of an entry; afterRole what follows.
func roleWord(part string) string {
	fields := strings.Fields(part)
	if len(fields) == 0 {
		return ""
	}
	return fields[0]
}

func afterRole(part string) string {
	return strings.TrimPrefix(strings.TrimSpace(part), roleWord(part))
}

func (s *Settings) also(role Role, n, each int, hasEach bool) (Holder, error) {
	h := Holder{Role: role, Processes: n, Each: each, Origin: "assumed: --also"}
	var ignored []mastodonenv.Problem
	switch {
	case role == RoleSidekiq && !hasEach, role == RoleOther && !hasEach:
		h.Processes, h.Each = 1, n
	case role == RoleWeb && !hasEach:
		h.Each = s.web(nil, &ignored).Each
		h.Origin += ", pool as here"
	case role == RoleStreaming && !hasEach:
		h.Each = s.streaming(nil, &ignored).Each
		h.Origin += ", pool as here"
	case role != RoleWeb && role != RoleStreaming && role != RoleSidekiq && role != RoleOther:
		return h, fmt.Errorf("%q is not web, streaming, sidekiq or other", shorten(string(role)))
	}
	if role == RoleSidekiq {
		h.Threads = h.Processes * h.Each
	}
	return h, nil
}

// shorten keeps what a person typed fit for a message.
func shorten(s string) string {
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:60], "") + "…"
	}
	return s
}
