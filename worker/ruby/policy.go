package ruby

import "github.com/queueville/queueville/internal/placement"

// The policy is package placement's, which the simulator of load tests shares.
type (
	// JobView is what the policy knows of a waiting job.
	JobView = placement.JobView
	// ProcView is what the policy knows of a process that takes jobs.
	ProcView = placement.ProcView
	// SizeView is what the number of processes is decided on.
	SizeView = placement.SizeView
)

const (
	fullLoad     = placement.FullLoad
	lightShare   = placement.LightShare
	unknownShare = placement.UnknownShare
	processFull  = placement.ProcessFull
	hostFull     = placement.HostFull
)

// Place says which of the waiting jobs goes to which process now. See placement.Place.
func Place(jobs []JobView, procs []ProcView) []placement.Assignment {
	return placement.Place(jobs, procs)
}

// Room says how many more jobs are wanted beside those that wait. See placement.Room.
func Room(waiting int, procs []ProcView, typical float64, ahead int) int {
	return placement.Room(waiting, procs, typical, ahead)
}

// Size says how many processes are wanted. See placement.Size.
func Size(v SizeView) int { return placement.Size(v) }
