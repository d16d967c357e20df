package budgetsum

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/queueville/queueville/internal/mastodonenv"
)

// RenderOptions say what the sum is written on.
type RenderOptions struct {
	Width  int  // columns; 0 is 120
	Colour bool // a terminal
}

// Render writes the sum for people, as a spreadsheet has it: one number a line, and where it comes from.
func Render(w io.Writer, s *Sum, opts RenderOptions) error {
	r := &renderer{width: opts.Width, colour: opts.Colour}
	if r.width <= 0 {
		r.width = 120
	}
	r.width = max(r.width, 40)
	for i := range s.Tables {
		if i > 0 {
			r.b.WriteByte('\n')
		}
		r.table(&s.Tables[i])
	}
	r.ledger(s)
	r.list("not promised", s.Promises)
	r.warnings(s.Warnings)
	_, err := io.WriteString(w, r.b.String())
	return err
}

type renderer struct {
	b      strings.Builder
	width  int
	colour bool
}

// The styles of a terminal.
const (
	bold   = "1"
	dim    = "2"
	yellow = "33"
)

func (r *renderer) style(code, text string) string {
	if !r.colour || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// How much of a name is shown; a long one would break every line of its table.
const (
	nameRunes   = 44
	originRunes = 300
	numberWidth = 8
	minOrigin   = 44 // with less room for it, the origin goes onto a line of its own
	gap         = "  "
)

// table writes the rows: a sign, the label, two numbers, and where they come from.
func (r *renderer) table(t *Table) {
	for _, part := range wrap(cut(t.Title, originRunes), r.width) {
		r.b.WriteString(r.style(bold, part) + "\n")
	}
	labels := labelsOf(t.Rows, r.width-2-2*(len(gap)+numberWidth))
	width := 0
	for _, l := range labels {
		width = max(width, utf8.RuneCountInString(l))
	}
	before := 2 + width + 2*(len(gap)+numberWidth) + len(gap)
	below := r.width-before < minOrigin
	r.b.WriteString(r.style(dim, strings.TrimRight(fmt.Sprintf("%s%s%*s%s%*s%s%s", strings.Repeat(" ", 2+width), gap, numberWidth, "can hold", gap, numberWidth, "open now", gap,
		map[bool]string{false: "where it comes from"}[below]), " ")) + "\n")
	for i := range t.Rows {
		row := &t.Rows[i]
		line := sign(row.Kind) + " " + labels[i] + strings.Repeat(" ", width-utf8.RuneCountInString(labels[i]))
		line += gap + right(digits(row.CanHold)) + gap + right(digits(row.Open))
		origin := cut(row.Origin, originRunes)
		if row.Kind == RowTotal {
			line = r.style(bold, line)
		}
		switch {
		case origin == "":
			r.b.WriteString(strings.TrimRight(line, " ") + "\n")
		case below:
			r.b.WriteString(strings.TrimRight(line, " ") + "\n")
			for _, part := range wrap(origin, r.width-6) {
				r.b.WriteString("      " + r.style(dim, part) + "\n")
			}
		default:
			for n, part := range wrap(origin, r.width-before) {
				if n > 0 {
					line = strings.Repeat(" ", before-len(gap))
				}
				r.b.WriteString(line + gap + r.style(dim, part) + "\n")
			}
		}
	}
}

func sign(kind RowKind) string {
	switch kind {
	case RowLess:
		return "−"
	case RowTotal:
		return "="
	default:
		return " "
	}
}

func digits(n *int) string {
	if n == nil {
		return ""
	}
	return strings.Replace(strconv.Itoa(*n), "-", "−", 1)
}

// right puts a number to the right of its column.
func right(s string) string {
	return strings.Repeat(" ", max(0, numberWidth-utf8.RuneCountInString(s))) + s
}

// labelsOf makes the first column, of at most limit characters; the parts of a row are columns among themselves, and names give way first.
func labelsOf(rows []Row, limit int) []string {
	var widths [4]int
	cells := make([][4]string, len(rows))
	for i := range rows {
		row := &rows[i]
		cells[i] = [4]string{cut(row.Label, nameRunes), cut(row.Host, nameRunes), cut(row.Name, nameRunes), row.How}
		if row.Kind != RowPart || row.Host == "" {
			continue
		}
		for c := range cells[i] {
			widths[c] = max(widths[c], utf8.RuneCountInString(cells[i][c]))
		}
	}
	if wide := widths[0] + widths[1] + widths[2] + widths[3] + 8; wide > limit {
		widths[2] = max(6, widths[2]-(wide-limit))
	}
	out := make([]string, len(rows))
	for i := range rows {
		cells[i][2] = fitEnd(cells[i][2], max(6, widths[2]))
		switch {
		case rows[i].Kind == RowPart && rows[i].Host != "":
			var b strings.Builder
			for c, cell := range cells[i] {
				if widths[c] > 0 {
					b.WriteString("  " + cell + strings.Repeat(" ", widths[c]-utf8.RuneCountInString(cell)))
				}
			}
			out[i] = strings.TrimRight(b.String(), " ")
		case rows[i].Kind == RowPart, rows[i].Kind == RowNote:
			out[i] = "  " + cells[i][0]
		default:
			out[i] = cells[i][0]
		}
		out[i] = fit(out[i], limit)
	}
	return out
}

// fitEnd is the end of s, where names of units differ, in at most n characters.
func fitEnd(s string, n int) string {
	if list := []rune(s); len(list) > n {
		return "…" + string(list[len(list)-n+1:])
	}
	return s
}

// fit is s in at most n characters.
func fit(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return cut(s, max(1, n-1))
}

// ledger writes who has how much of the budget.
func (r *renderer) ledger(s *Sum) {
	st := s.Stored
	if st == nil {
		if s.Found != nil && s.Ledger != nil {
			r.b.WriteString("\n" + r.style(bold, "Queueville: no budget is stored") + "\n")
			enough := "not enough for one host"
			if n := max(0, *s.Found-s.Ledger.Reserve) / DefaultMinPerHost; n > 0 {
				enough = "enough for " + countOf(n, "host", "hosts")
			}
			r.wrapped("  ", fmt.Sprintf("the %d found are %s with at least %d each", *s.Found, enough, DefaultMinPerHost))
		}
		return
	}
	line := fmt.Sprintf("Queueville: %d connections", st.Connections)
	if st.MinPerHost > 0 {
		line += fmt.Sprintf(", at least %d for each host", st.MinPerHost)
		if s.HostsFit != nil {
			line += fmt.Sprintf(": %s", countOf(*s.HostsFit, "host fits", "hosts fit"))
		}
	}
	r.b.WriteString("\n" + r.style(bold, line) + "\n")
	if s.Ledger == nil {
		return
	}
	leases := s.Ledger.Leases
	if len(leases) == 0 {
		r.b.WriteString("  no host has a lease now\n")
	} else {
		r.leases(leases)
	}
	line = fmt.Sprintf("  %d free, %d kept to confirm with", s.Ledger.Free, s.Ledger.Reserve)
	if s.Ledger.Doubtful > 0 {
		line += fmt.Sprintf(", %d of ended leases until PostgreSQL shows them closed", s.Ledger.Doubtful)
	}
	r.wrapped("  ", strings.TrimSpace(line))
}

// wrapped writes text between words into the width.
func (r *renderer) wrapped(indent, text string) {
	for _, part := range wrap(text, r.width-len(indent)) {
		r.b.WriteString(indent + part + "\n")
	}
}

func (r *renderer) leases(leases []Lease) {
	width := len("host")
	for _, l := range leases {
		width = max(width, utf8.RuneCountInString(cut(l.Host, nameRunes)))
	}
	r.b.WriteString(r.style(dim, fmt.Sprintf("  %-*s  %7s  %7s  %7s  %s", width, "host", "leased", "demand", "ruby", "lease")) + "\n")
	for _, l := range leases {
		host := cut(l.Host, nameRunes)
		host += strings.Repeat(" ", width-utf8.RuneCountInString(host))
		fmt.Fprintf(&r.b, "  %s  %7d  %7d  %7d  %s\n", host, l.Leased, l.Demand, l.Ruby, cut(l.State, nameRunes))
	}
}

func (r *renderer) list(title string, items []string) {
	if len(items) == 0 {
		return
	}
	r.b.WriteString("\n" + r.style(bold, title) + "\n")
	for _, item := range items {
		for n, part := range wrap(item, r.width-2) {
			r.b.WriteString(map[bool]string{true: "· ", false: "  "}[n == 0] + part + "\n")
		}
	}
}

// warnings: what and where first, what to do below it.
func (r *renderer) warnings(list []mastodonenv.Problem) {
	if len(list) == 0 {
		return
	}
	r.b.WriteByte('\n')
	for _, p := range list {
		hint := p.Hint
		p.Hint = ""
		tag := string(p.Severity) + ": "
		for n, part := range wrap(cut(p.String(), 2*originRunes), r.width-len(tag)) {
			if n == 0 {
				r.b.WriteString(r.style(yellow, tag) + part + "\n")
				continue
			}
			r.b.WriteString(strings.Repeat(" ", len(tag)) + part + "\n")
		}
		if hint == "" {
			continue
		}
		for n, part := range wrap(cut(hint, 2*originRunes), r.width-len(tag)-2) {
			r.b.WriteString(strings.Repeat(" ", len(tag)) + map[bool]string{true: "→ ", false: "  "}[n == 0] + part + "\n")
		}
	}
}

// wrap breaks text between words into lines of at most width characters; a word that is longer stays whole.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// cut is s printable, and at most n characters of it.
func cut(s string, n int) string {
	for i := range s {
		if n--; n < 0 {
			return printable(s[:i]) + "…"
		}
	}
	return printable(s)
}

// printable keeps names that come from servers from steering the terminal: no control characters, none that turn the direction of
// writing, none that are invisible, no broken UTF-8.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c == utf8.RuneError || !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, s)
}
