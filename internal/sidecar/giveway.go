package sidecar

import "github.com/queueville/queueville/internal/governor"

// nice is the niceness of a worker with adaptive limits, unless --nice says another: beside one busy process on each processor it leaves a quarter
// of them to the worker (the kernel weighs 335 to 1024), which is what limits keep for it too, and everybody else has a processor nearly as soon as
// if it were free.
const nice = 5

// GiveWay makes this process, and the Ruby processes that it will start, give way to the host's other processes where limits are adaptive. It is for
// the command that is the process, and to be called before anything starts.
func (o *Options) GiveWay() error {
	if o.Limits != limitsAdaptive || o.Shadow || o.Nice < 1 || o.Nice > mostNice {
		return nil
	}
	return governor.BeNice(o.Nice)
}

// mostNice is the greatest niceness.
const mostNice = 19
