package activitypub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Deliver makes one delivery and says what becomes of the job. The order of effects is the worker's: unavailable_domains, the
// account, the request, the tracker. It may take up to 45 s for each exchange, and up to 2 s more to tell our failure from the host's.
// When ctx ends before there is an answer the job is Deferred: the host may or may not have got it.
func (d *Deliverer) Deliver(ctx context.Context, job Delivery) Result {
	x, early := d.prepare(ctx, job)
	if early != nil {
		if early.Outcome == HostRefused && !d.config.DryRun {
			d.tracker.failure(early.Host, time.Now())
		}
		if early.Outcome == Deferred && ctx.Err() != nil {
			return stopped(ctx, *early)
		}
		return *early
	}
	result := Result{Host: x.inbox.host}
	if d.config.DryRun {
		_, err := x.header(http.MethodPost, x.inbox, d.firstForm(x), time.Now())
		result.SignTime = x.signTime
		if err != nil {
			return ours(result, Failed, err, classKey)
		}
		result.Outcome = Delivered
		return result
	}
	started := time.Now()
	r, err := d.knock(ctx, x, &result)
	result.SignTime, result.WireTime, result.Status = x.signTime, x.wireTime, r.status
	return d.conclude(ctx, x, started, r, err, result)
}

// Signed is a request that was made and not sent.
type Signed struct {
	// Host is the inbox's normalised host without port, Destination its key in Hosts.
	Host, Destination string
	// URL is the normalised inbox.
	URL string
	// Header is the whole head, signature included.
	Header http.Header
	// SignTime is how long the signature took.
	SignTime time.Duration
}

// Sign does all of a delivery up to sending, for looking without touching. The Result is nil when a request would be sent; else it
// says why not.
func (d *Deliverer) Sign(ctx context.Context, job Delivery) (Signed, *Result) {
	x, early := d.prepare(ctx, job)
	if early != nil {
		return Signed{}, early
	}
	header, err := x.header(http.MethodPost, x.inbox, d.firstForm(x), time.Now())
	if err != nil {
		r := ours(Result{Host: x.inbox.host}, Failed, err, classKey)
		return Signed{}, &r
	}
	return Signed{Host: x.inbox.host, Destination: x.inbox.dest, URL: x.inbox.url.String(), Header: header, SignTime: x.signTime}, nil
}

// prepare gathers what a request needs, or says how the job ends without one.
func (d *Deliverer) prepare(ctx context.Context, job Delivery) (*exchange, *Result) {
	end := func(r Result) (*exchange, *Result) { return nil, &r }
	inbox, err := parseTarget(job.InboxURL)
	if err != nil {
		class := classInvalidURI
		if host, ok := errors.AsType[*HostError](err); ok {
			class = host.Class
		}
		return end(ours(Result{}, Failed, err, class))
	}
	result := Result{Host: inbox.host}
	if !job.Options.BypassAvailability {
		listed, err := d.unavailable.lists(ctx, inbox.host)
		if err != nil {
			return end(ours(result, Deferred, err, classDatabase))
		}
		if listed {
			result.Outcome = Unavailable
			return end(result)
		}
	}
	acct, err := d.keys.get(ctx, job.AccountID)
	switch {
	case errors.Is(err, errNoAccount):
		return end(ours(result, Failed, fmt.Errorf("couldn't find Account with 'id'=%d: %w", job.AccountID, err), classNotFound))
	case err != nil:
		return end(ours(result, Deferred, err, classDatabase))
	}
	if spec := job.Options.SignWith; spec != nil {
		if acct, err = d.given.with(acct, spec, time.Now()); err != nil {
			return end(ours(result, Failed, fmt.Errorf("sign_with: %w", err), classKey))
		}
	}
	if acct.keyErr != nil {
		// Ruby counts this against the host. It says nothing about the host, so we do not.
		return end(ours(result, Failed, acct.keyErr, keyErrorClass(acct.keyErr)))
	}
	if hidden(inbox.host) && !d.config.AllowHidden {
		result.Outcome, result.Kind, result.ErrorClass = HostRefused, KindPrivate, classHost
		result.Err = errors.New("instance does not support hidden service connections")
		return end(result)
	}
	x := &exchange{d: d, body: newJobBody(job.Body, job.Args), digest: bodyDigest(job.Body), inbox: inbox, acct: acct}
	if job.Options.SynchronizeFollowers && !d.config.DisableFollowersSync {
		if x.sync, err = d.digests.header(ctx, d.web, acct, job.InboxURL); err != nil {
			return end(ours(result, Deferred, err, classDatabase))
		}
	}
	x.given = job.Options.SignWith != nil
	return x, nil
}

// ours is the result of a fault on our side: nothing is counted against the host.
func ours(r Result, outcome Outcome, err error, class string) Result {
	r.Outcome, r.Err, r.ErrorClass, r.Kind = outcome, err, class, KindLocal
	return r
}

// stopped is the result when the caller's context ended first.
func stopped(ctx context.Context, r Result) Result {
	return ours(r, Deferred, fmt.Errorf("stopped before there was an answer: %w", context.Cause(ctx)), classShuttingDown)
}

func (d *Deliverer) firstForm(x *exchange) form {
	if d.release.since4(7) && d.knocks.wantsRFC9421(x.inbox.dest, time.Now()) {
		return formRFC9421
	}
	return formCavage
}

// knock sends the request, and once more with the other signature form when the first is answered 400 or 401 (4.7+). A 401 may
// also mean that our key is out of date, so it is read again first.
func (d *Deliverer) knock(ctx context.Context, x *exchange, result *Result) (reply, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.exchange, errExchangeTime)
	defer cancel()
	f := d.firstForm(x)
	r, err := x.send(ctx, f)
	if err == nil && r.status == http.StatusUnauthorized && d.rereadKey(ctx, x) {
		r, err = x.send(ctx, f)
	}
	refused := r.status == http.StatusBadRequest || r.status == http.StatusUnauthorized
	if err != nil || !refused || !d.release.since4(7) {
		return r, err
	}
	if f == formRFC9421 {
		d.knocks.forget(x.inbox.dest)
	}
	f = f.other()
	result.SecondKnock = true
	r, err = x.send(ctx, f)
	if err == nil && f == formRFC9421 && classifyStatus(r.status) == KindNone {
		d.knocks.learn(x.inbox.dest, time.Now())
	}
	return r, err
}

// errExchangeTime is why an exchange ends that took longer than all its steps may.
var errExchangeTime = errors.New("exchange took too long")

// rereadKey reads the account again and says whether it signs with another key now.
func (d *Deliverer) rereadKey(ctx context.Context, x *exchange) bool {
	acct, err := d.keys.reread(ctx, x.acct.id)
	if err != nil {
		return false // the key in hand is the best there is
	}
	if x.given {
		given := *x.acct
		given.gone = acct.gone
		x.acct = &given
		return false
	}
	changed := acct.key != nil && (acct.stored != x.acct.stored || acct.keyID != x.acct.keyID)
	if acct.key != nil {
		x.acct = acct
	}
	return changed
}

// conclude turns an answer or an error into the job's outcome, and tells Hosts, the outage watch and the tracker.
func (d *Deliverer) conclude(ctx context.Context, x *exchange, started time.Time, r reply, err error, result Result) Result {
	now := time.Now()
	if err != nil && ctx.Err() != nil {
		return stopped(ctx, result)
	}
	if signing, ok := errors.AsType[*signingError](err); ok {
		return ours(result, Failed, signing, classKey)
	}
	d.judge(x, r, err, now, &result)
	if result.Kind.suspectsUs() {
		if d.outage.blames(ctx, x.inbox.dest, result.Kind, started, d.hosts.failing(x.inbox.dest)) {
			result.Outcome = Deferred
			return result
		}
	} else if result.Kind != KindPrivate {
		d.outage.answered(ctx, x.inbox.dest, now)
	}
	d.hosts.observe(x.inbox.dest, started, now, result.Kind, result.RetryAfter)
	switch result.Outcome {
	case Delivered:
		d.tracker.success(x.inbox.host)
	case Unsalvageable:
		if !d.release.since4(6) {
			d.tracker.success(x.inbox.host)
		}
	default:
		d.tracker.failure(x.inbox.host, now)
	}
	return result
}

// judge finds the outcome by itself, before it is asked whose fault it is.
func (d *Deliverer) judge(x *exchange, r reply, err error, now time.Time, result *Result) {
	redirect, redirected := errors.AsType[*redirectError](err)
	switch {
	case errors.Is(err, errPrivateAddress):
		result.Outcome, result.Kind, result.Err, result.ErrorClass = HostRefused, KindPrivate, errPrivateAddress, classPrivate
	case redirected:
		result.Outcome, result.Kind, result.Err, result.ErrorClass = Failed, Kind4xx, redirect, redirect.class
		result.Status = redirect.status
	case err != nil:
		result.Outcome, result.Err = Failed, fmt.Errorf("%s: %w", x.inbox.dest, err)
		result.Kind, result.ErrorClass = classifyNetwork(err)
	default:
		d.judgeStatus(x, r, now, result)
	}
}

func (d *Deliverer) judgeStatus(x *exchange, r reply, now time.Time, result *Result) {
	result.Kind = classifyStatus(r.status)
	if result.Kind == KindNone {
		result.Outcome = Delivered
		return
	}
	result.Err = fmt.Errorf("%s returned code %d", x.inbox.dest, r.status)
	if !salvageable(r.status) || r.status == http.StatusUnauthorized && x.acct.gone {
		result.Outcome = Unsalvageable
		return
	}
	result.Outcome, result.ErrorClass = Failed, classUnexpected
	switch r.status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		result.RetryAfter = parseRetryAfter(r.retryAfter, now)
	case http.StatusUnauthorized:
		if clocksDiffer(r.date, now) {
			result.Kind = KindClock
		}
	}
}
