package scenario

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Problem is something wrong in a file.
type Problem struct {
	Line int // 0 when the file as a whole is meant
	Text string
}

func (p Problem) String() string {
	if p.Line == 0 {
		return p.Text
	}
	return fmt.Sprintf("line %d: %s", p.Line, p.Text)
}

// maxBytes and maxDepth bound a file: a scenario is a few hundred lines.
const (
	maxBytes = 1 << 20
	maxList  = 10_000
)

// reader walks a file's nodes and collects what is wrong.
type reader struct {
	problems []Problem
}

func (r *reader) complain(n *yaml.Node, format string, args ...any) {
	line := 0
	if n != nil {
		line = n.Line
	}
	r.problems = append(r.problems, Problem{Line: line, Text: fmt.Sprintf(format, args...)})
}

// sorted are the problems by line.
func (r *reader) sorted() []Problem {
	slices.SortStableFunc(r.problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return r.problems
}

// fields says what may stand in a mapping.
type fields map[string]func(*yaml.Node)

// mapping reads a mapping: every key once, every key known.
func (r *reader) mapping(n *yaml.Node, what string, f fields, required ...string) {
	if n.Kind != yaml.MappingNode {
		r.complain(n, "%s: want keys and values, as in “%s: …”", what, slices.Sorted(maps.Keys(f))[0])
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read, ok := f[key.Value]
		switch {
		case !ok:
			r.complain(key, "%s: unknown key %q%s", what, key.Value, suggest(key.Value, slices.Sorted(maps.Keys(f))))
		case seen[key.Value]:
			r.complain(key, "%s: %q stands here twice", what, key.Value)
		case value.Kind == yaml.AliasNode:
			r.complain(value, "%s: aliases (*name) are not read", key.Value)
		default:
			read(value)
		}
		seen[key.Value] = true
	}
	for _, key := range required {
		if !seen[key] {
			r.complain(n, "%s: %q is missing", what, key)
		}
	}
}

// suggest names the known word that is most like another one.
func suggest(word string, known []string) string {
	best, least := "", 3
	for _, k := range known {
		if d := distance(word, k); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return "; known are " + strings.Join(known, ", ")
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance is the number of letters to change, add or leave out (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := last
			if a[i] != b[j] {
				change++
			}
			last = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func (r *reader) list(n *yaml.Node, what string, each func(*yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		r.complain(n, "%s: want a list", what)
		return
	}
	if len(n.Content) > maxList {
		r.complain(n, "%s: %d entries; at most %d", what, len(n.Content), maxList)
		return
	}
	for _, item := range n.Content {
		each(item)
	}
}

func (r *reader) text(n *yaml.Node, what string) string {
	if n.Kind != yaml.ScalarNode {
		r.complain(n, "%s: want a text", what)
		return ""
	}
	return strings.TrimSpace(n.Value)
}

// number reads a number; "30%" is 0.3.
func (r *reader) number(n *yaml.Node, what string, low, high float64) float64 {
	text, unit := r.text(n, what), 1.0
	if cut, ok := strings.CutSuffix(text, "%"); ok {
		text, unit = strings.TrimSpace(cut), 100
	}
	v, err := strconv.ParseFloat(strings.ReplaceAll(text, "_", ""), 64)
	v /= unit
	switch {
	case err != nil:
		r.complain(n, "%s: %q is no number", what, n.Value)
		return low
	case !(v >= low && v <= high):
		r.complain(n, "%s: %v is out of range; %v to %v is possible", what, n.Value, low, high)
		return low
	}
	return v
}

func (r *reader) whole(n *yaml.Node, what string, low, high int) int {
	v := r.number(n, what, float64(low), float64(high))
	if v != float64(int(v)) {
		r.complain(n, "%s: want a whole number", what)
	}
	return int(v)
}

// duration reads "36h", "90s", "1h30m", "0.3ms".
func (r *reader) duration(n *yaml.Node, what string, low, high time.Duration) time.Duration {
	d, err := time.ParseDuration(r.text(n, what))
	if r.text(n, what) == "0" {
		d, err = 0, nil
	}
	switch {
	case err != nil:
		r.complain(n, "%s: %q is no length of time; write 90s, 15m or 36h", what, n.Value)
		return low
	case d < low || d > high:
		r.complain(n, "%s: %s is out of range; %v to %v is possible", what, n.Value, low, high)
		return low
	}
	return d
}

// clock reads a time of day, "19:30".
func (r *reader) clock(n *yaml.Node, what string) time.Duration {
	at, err := time.Parse("15:04", r.text(n, what))
	if err != nil {
		r.complain(n, "%s: %q is no time of day; write \"19:30\"", what, n.Value)
		return 0
	}
	return time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute
}
