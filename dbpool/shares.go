package dbpool

import (
	"cmp"
	"fmt"
	"slices"
)

// HostDemand is what one live host asks for.
type HostDemand struct {
	Name     string // unique; decides where nothing else does
	Demand   int    // connections it could use
	Min      int    // what it gets whatever the others ask for, as long as there is room for it
	Priority int    // higher goes first when it is short
	Current  int    // what it has
}

// Grant is what Shares gives to one host.
type Grant struct {
	Name        string
	Connections int
	Reason      string // why it gets none; "" if it gets some or wants none
}

// Shares divides budget among hosts and returns a grant for each, in the order of hosts. It is a pure function: integers only, no
// clock, the same for every order of hosts.
//
//  1. Hosts take their seats: by priority, those that have connections first. A host that has no room for its minimum gets nothing.
//  2. Every seated host gets its minimum.
//  3. What is left goes to demand, one priority after the other, and within one in equal steps (max-min fair).
//  4. What nobody demands stays where it is, up to a head-room above demand, so that shares do not follow every wave; the rest is free.
func Shares(budget int, hosts []HostDemand) []Grant {
	grants := make([]Grant, len(hosts))
	order := seating(hosts)
	left, seated := max(0, budget), 0
	rows := make([]row, 0, len(hosts))
	for _, i := range order {
		h := &hosts[i]
		grants[i].Name = h.Name
		if least := max(0, h.Min); least > left || budget <= 0 {
			grants[i].Reason = fmt.Sprintf("no room: %d connections give %d hosts their minimum", max(0, budget), seated)
			continue
		}
		seated++
		left -= max(0, h.Min)
		grants[i].Connections = max(0, h.Min)
		rows = append(rows, row{host: h, grant: &grants[i]})
	}
	for from := 0; from < len(rows); { // rows are sorted by priority
		to := from + 1
		for to < len(rows) && rows[to].host.Priority == rows[from].host.Priority {
			to++
		}
		left = fill(rows[from:to], left, func(h *HostDemand) int { return h.Demand })
		from = to
	}
	fill(rows, left, comfort)
	for i := range rows {
		if g := rows[i].grant; g.Connections == 0 && rows[i].host.Demand > 0 {
			g.Reason = fmt.Sprintf("all %d connections are in demand by hosts of higher or equal priority", budget)
		}
	}
	return grants
}

// row is a seated host and what it has got so far.
type row struct {
	host  *HostDemand
	grant *Grant
}

// seating sorts indexes of hosts: priority, then those that have something, then the larger, then by name.
func seating(hosts []HostDemand) []int {
	order := make([]int, len(hosts))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		x, y := &hosts[a], &hosts[b]
		return cmp.Or(
			cmp.Compare(y.Priority, x.Priority), cmp.Compare(min(y.Current, 1), min(x.Current, 1)),
			cmp.Compare(y.Current, x.Current), cmp.Compare(x.Name, y.Name),
		)
	})
	return order
}

// comfort is what a host would keep or get if nobody else wanted it: what it has if that is between its demand and twice its head-room
// above, else its demand and the head-room.
func comfort(h *HostDemand) int {
	if h.Demand <= 0 {
		return 0
	}
	room := 1 + h.Demand/4
	if h.Current >= h.Demand && h.Current <= h.Demand+2*room {
		return h.Current
	}
	return h.Demand + room
}

// fill raises the grants of rows towards want in equal steps until left is used up, and returns what is left. The last few that do not
// go round go to the first rows.
func fill(rows []row, left int, want func(*HostDemand) int) int {
	open := make([]row, 0, len(rows))
	for _, r := range rows {
		if want(r.host) > r.grant.Connections {
			open = append(open, r)
		}
	}
	// Water rises from the lowest: a host that has more already, by its minimum, waits until the others have reached it.
	for left > 0 && len(open) > 0 {
		low := slices.MinFunc(open, func(a, b row) int { return cmp.Compare(a.grant.Connections, b.grant.Connections) }).grant.Connections
		level, lowest := 1<<31-1, 0
		for _, r := range open {
			if c := r.grant.Connections; c > low {
				level = min(level, c)
			} else {
				lowest++
				level = min(level, want(r.host))
			}
		}
		step := min(level-low, left/lowest)
		if step == 0 { // fewer left than rows at the bottom
			for _, r := range open {
				if left > 0 && r.grant.Connections == low {
					r.grant.Connections++
					left--
				}
			}
			return left
		}
		for _, r := range open {
			if r.grant.Connections == low {
				r.grant.Connections += step
				left -= step
			}
		}
		open = slices.DeleteFunc(open, func(r row) bool { return r.grant.Connections >= want(r.host) })
	}
	return left
}
