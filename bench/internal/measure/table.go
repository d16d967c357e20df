package measure

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Series are the values of one figure over all rounds.
type Series []float64

// Median is the middle value, the mean of the middle two for an even number, 0 for none.
func (s Series) Median() float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// Range prints median, least and greatest: "21.4 (20.9–22.0)".
func (s Series) Range(format string) string {
	if len(s) == 0 {
		return "–"
	}
	median := fmt.Sprintf(format, s.Median())
	if len(s) == 1 {
		return median
	}
	return fmt.Sprintf("%s ("+format+"–"+format+")", median, slices.Min(s), slices.Max(s))
}

// Table writes rows as a Markdown table that is also aligned for a terminal. The first row is the head; numbers stand right.
func Table(w io.Writer, rows [][]string) error {
	if len(rows) == 0 {
		return nil
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell), 3)
		}
	}
	var out strings.Builder
	for n, row := range rows {
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				out.WriteString("| " + cell + pad + " ")
			} else {
				out.WriteString("| " + pad + cell + " ")
			}
		}
		out.WriteString("|\n")
		if n > 0 {
			continue
		}
		for i, width := range widths {
			if i == 0 {
				out.WriteString("|" + strings.Repeat("-", width+2))
			} else {
				out.WriteString("|" + strings.Repeat("-", width+1) + ":")
			}
		}
		out.WriteString("|\n")
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// Target is one promise and what came of it in this run.
type Target struct {
	What  string  `json:"what"`
	Want  string  `json:"want"` // e.g. "≥ 10×"
	Got   float64 `json:"got"`
	Limit float64 `json:"limit"`
	Most  bool    `json:"most"` // the limit is an upper one
}

// Met says whether the promise was kept.
func (t Target) Met() bool {
	if t.Most {
		return t.Got <= t.Limit
	}
	return t.Got >= t.Limit
}

// Row is the target as a row of a table.
func (t Target) Row() []string {
	verdict := "met"
	if !t.Met() {
		verdict = "MISSED"
	}
	return []string{t.What, t.Want, fmt.Sprintf("%.3g", t.Got), verdict}
}
