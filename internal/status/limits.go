package status

import "github.com/queueville/queueville/internal/governor"

// Limit is what a lane may run at once, and what binds it.
type Limit struct {
	Lane    string   `json:"lane"`
	Limit   int      `json:"limit"`
	Running float64  `json:"running"` // on average, lately
	Rate    float64  `json:"jobs_per_second"`
	Bound   string   `json:"bound"`          // what binds: demand, cpu, no gain, memory …
	Value   float64  `json:"value"`          // of what binds
	Unit    string   `json:"unit,omitempty"` // of what one more would help
	Gain    *float64 `json:"gain,omitempty"` // jobs a second that one more unit would give, about; nil: not known
	Inputs  *Inputs  `json:"inputs,omitempty"`
}

// Inputs is what a limit was decided on last. Negative: not known.
type Inputs = governor.Inputs

// MaxCosts is how many classes a worker publishes.
const MaxCosts = 50

// Cost is what a run of one class costs a worker: means that forget, over some twenty runs or fifteen seconds. A nil number was never measured.
type Cost struct {
	Class        string   `json:"class"`
	Wall         float64  `json:"run_seconds"`
	CPU          *float64 `json:"cpu_seconds,omitempty"`
	DB           *float64 `json:"db_seconds,omitempty"`
	FailureShare float64  `json:"failure_share"`
	Arrivals     float64  `json:"arrivals_per_second"`
	Rate         float64  `json:"runs_per_second"`
	Runs         uint64   `json:"runs"` // since the worker's start
}
