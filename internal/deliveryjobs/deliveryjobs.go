// Package deliveryjobs joins the worker to activitypub: it is ActivityPub::DeliveryWorker and ActivityPub::LowPriorityDeliveryWorker as a
// worker.Handler, and the state of destination hosts as a worker.Gate. The worker knows nothing of deliveries and activitypub nothing of
// queues; both meet here.
package deliveryjobs

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/queueville/queueville/activitypub"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/worker"
)

// The classes that are run natively.
const (
	Class    = "ActivityPub::DeliveryWorker"
	ClassLow = "ActivityPub::LowPriorityDeliveryWorker"
)

// Handler runs deliveries.
type Handler struct {
	deliverer *activitypub.Deliverer
	observe   func(class string, r activitypub.Result)
}

// NewHandler makes a handler. observe, if not nil, is told the result of every delivery that was tried, for metrics.
func NewHandler(d *activitypub.Deliverer, observe func(class string, r activitypub.Result)) *Handler {
	return &Handler{deliverer: d, observe: observe}
}

// Classes implements worker.Handler.
func (h *Handler) Classes() []string { return []string{Class, ClassLow} }

// Destination implements worker.Handler: the host and port of the inbox. A URL that can never be a destination is left to Run, which
// decides as Mastodon does (host validation errors end the job, they do not fail it).
func (h *Handler) Destination(_, args string) (string, error) {
	dest, err := activitypub.Destination(args)
	if err != nil {
		return "", nil //nolint:nilerr // Run reads the arguments again and says what is wrong with them
	}
	return dest, nil
}

// Run implements worker.Handler.
func (h *Handler) Run(ctx context.Context, job *queues.Job) worker.Outcome {
	d, err := activitypub.ParseArgs(job.Args)
	if err != nil {
		return badArguments(err)
	}
	d.Low, d.Args = job.Class == ClassLow, job.Args
	r := h.deliverer.Deliver(ctx, d)
	if h.observe != nil {
		h.observe(job.Class, r)
	}
	if r.Outcome == activitypub.Deferred && ctx.Err() != nil {
		return worker.Outcome{Kind: worker.Returned, Label: r.Outcome.String()}
	}
	return outcome(r, time.Now())
}

// deferral is how long a delivery waits that was not judged because we could not do our part: no network, no database.
const deferral = 30 * time.Second

func badArguments(err error) worker.Outcome {
	class := "ArgumentError"
	if e, ok := errors.AsType[*activitypub.ArgumentError](err); ok {
		class = e.Class
	}
	return failure("bad_arguments", class, err)
}

// outcome translates. Every outcome of activitypub is named, so that a new one is noticed.
func outcome(r activitypub.Result, now time.Time) worker.Outcome {
	switch r.Outcome {
	case activitypub.Delivered, activitypub.Unsalvageable, activitypub.Unavailable, activitypub.HostRefused:
		return worker.Outcome{Kind: worker.Done, Label: r.Outcome.String()}
	case activitypub.Deferred:
		reason := "held by us: " + r.Kind.String()
		return worker.Outcome{Kind: worker.Held, Label: r.Outcome.String(), Until: now.Add(deferral), Reason: reason}
	case activitypub.Failed:
		out := failure(r.Kind.String(), r.ErrorClass, r.Err)
		if r.RetryAfter > 0 {
			out.NotBefore = now.Add(r.RetryAfter)
		}
		return out
	}
	return failure("unknown outcome", "RuntimeError", r.Err)
}

func failure(label, class string, err error) worker.Outcome {
	out := worker.Outcome{Kind: worker.Failed, Label: label, ErrorClass: class}
	if err != nil {
		out.ErrorMessage = err.Error()
	}
	return out
}

// Rehearse does everything of a delivery up to sending it, and names its destination.
func Rehearse(ctx context.Context, d *activitypub.Deliverer, job *queues.Job) (string, error) {
	dest, err := activitypub.Destination(job.Args)
	if err != nil {
		return "", err
	}
	delivery, err := activitypub.ParseArgs(job.Args)
	if err != nil {
		return dest, err
	}
	if _, r := d.Sign(ctx, delivery); r != nil {
		return dest, r.Err // nil where there would have been nothing to send
	}
	return dest, nil
}

// RetryDelay implements worker.Handler.
func (h *Handler) RetryDelay(_ string, count int) time.Duration {
	return activitypub.RetryDelay(count, rand.Float64)
}

// GiveUpAfter implements worker.Handler.
func (h *Handler) GiveUpAfter(class string) time.Duration {
	return activitypub.Horizon(class == ClassLow)
}

// Gate is the state of destination hosts as a worker.Gate.
type Gate struct{ hosts *activitypub.Hosts }

// NewGate makes a gate over a deliverer's hosts.
func NewGate(h *activitypub.Hosts) Gate { return Gate{h} }

// Acquire implements worker.Gate.
func (g Gate) Acquire(dest string, now time.Time) worker.Admission {
	adm := g.hosts.Acquire(dest, now)
	switch adm.Verdict {
	case activitypub.Full:
		return worker.Admission{Verdict: worker.Full}
	case activitypub.Held:
		return worker.Admission{Verdict: worker.HeldBack, Until: adm.Until, Reason: adm.Reason}
	case activitypub.Later:
		return worker.Admission{Verdict: worker.Later, Until: adm.Until, Reason: adm.Reason}
	case activitypub.Start:
	}
	return worker.Admission{Verdict: worker.Start}
}

// Pace implements worker.Pacer.
func (g Gate) Pace(dest string) time.Duration { return g.hosts.Pace(dest) }

// Release implements worker.Gate.
func (g Gate) Release(dest string, now time.Time) { g.hosts.Release(dest, now) }
