package budgetsum

import (
	"cmp"
	"slices"
)

// Role is what a process is for.
type Role string

// The roles, in the order in which they are shown.
const (
	RoleWeb       Role = "web" // Puma
	RoleStreaming Role = "streaming"
	RoleSidekiq   Role = "sidekiq" // the units that Queueville has not replaced yet
	RoleOther     Role = "other"
)

var roles = []Role{RoleWeb, RoleStreaming, RoleSidekiq, RoleOther}

// Holder is something that can hold connections: equal processes with a pool each.
type Holder struct {
	Role      Role   `json:"role"`
	Host      string `json:"host"`
	Name      string `json:"name,omitempty"` // the unit, without ".service"
	Processes int    `json:"processes"`
	Each      int    `json:"connections_each"`
	Threads   int    `json:"threads,omitempty"` // Sidekiq: of all processes together
	Origin    string `json:"origin"`            // where the numbers come from
	Assumed   bool   `json:"assumed,omitempty"` // a person's word or a default, not read from the host
	Idle      bool   `json:"not_counted,omitempty"`
}

// CanHold is how many connections it can have open at most; 0 when it is not counted because nothing starts it.
func (h *Holder) CanHold() int {
	if h.Idle {
		return 0
	}
	return h.Processes * h.Each
}

// sortHolders puts them into the order in which they are shown.
func sortHolders(list []Holder) {
	slices.SortStableFunc(list, func(a, b Holder) int {
		return cmp.Or(cmp.Compare(slices.Index(roles, a.Role), slices.Index(roles, b.Role)), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Name, b.Name))
	})
}

// Bounds of what one holder may be said to have; PostgreSQL itself ends at 262,143 connections.
const (
	maxProcesses = 10_000
	maxEach      = 100_000
)
