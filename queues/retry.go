package queues

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
	"unicode/utf8"
)

// Failure is what a handler's error becomes in a payload.
type Failure struct {
	Class     string   // "error_class"
	Message   string   // "error_message"; cut to 10,000 characters, invalid UTF-8 replaced
	Backtrace []string // innermost first; stored only if the job asks for it
}

// Verdict is where a failed job goes.
type Verdict byte

// The verdicts.
const (
	VerdictRetry   Verdict = 'r' // into the retry set, at Score
	VerdictDead    Verdict = 'd' // into the dead set, at Score
	VerdictDiscard Verdict = 'x' // nowhere
)

// Op is the completion that carries the verdict out.
func (v Verdict) Op() Op {
	switch v {
	case VerdictRetry:
		return OpRetry
	case VerdictDead:
		return OpDead
	case VerdictDiscard:
		return OpAck
	}
	return OpDead
}

// DelayRule says what a delay function wants.
type DelayRule byte

// The rules.
const (
	DelayDefault DelayRule = iota // count⁴+15 s
	DelayCustom                   // the returned duration, if it is at least a second
	DelayKill                     // as if the retries were exhausted
	DelayDiscard                  // store nothing
)

// RetryOptions are the rules of this process and handler; the zero value is Sidekiq 8.1's.
type RetryOptions struct {
	// MaxRetries is for jobs that name no number, Sidekiq's max_retries; 0 means 25.
	MaxRetries int
	// Delay is asked with the new retry_count, like sidekiq_retry_in; jitter is added to its answer too. nil: the default.
	Delay func(count int) (time.Duration, DelayRule)
	// Jitter7 is Sidekiq ≤ 7.3's jitter, rand(10)·(count+1) seconds; else 8's, rand(10·(count+1)).
	Jitter7 bool
	// RetryForByCount is Sidekiq ≤ 8.0's rule: beside retry_for the number of retries counts too.
	RetryForByCount bool
	// Milliseconds writes failed_at and retried_at as integer milliseconds (fleets of 8.x only).
	Milliseconds bool
	// Rand is uniform in [0, n); nil: math/rand/v2.
	Rand func(n int) int
}

// Retry is what becomes of a failed job.
type Retry struct {
	Verdict   Verdict
	Payload   string  // as to be stored; what death handlers are shown when Exhausted
	Score     float64 // Unix seconds: when due, or when it died
	Count     int     // the new retry_count
	Exhausted bool    // death handlers have to run
	Reason    string  // a few words for the log
}

const maxErrorMessage = 10_000 // characters

// RetryEntry makes the retry record of a failed job as Sidekiq does: where it goes, with which payload and when. Bytes
// of the payload that do not have to change stay as they are. now should have sub-second digits: scores that differ are
// safer with Ruby's buttons. The error is a *MalformedJobError, for a job that did not come from ParseJob.
//
// Unlike Sidekiq, which loses it, a job that Ruby cannot write again (Job.Unrepeatable) is buried unchanged.
func RetryEntry(job Job, fetchedFrom string, failure Failure, now time.Time, o RetryOptions) (Retry, error) {
	at := unixSeconds(now)
	if !job.Retry.Enabled {
		return Retry{Verdict: VerdictDiscard, Payload: job.Payload, Score: at, Exhausted: true, Reason: "retry is false"}, nil
	}
	if job.Unrepeatable() {
		return Retry{Verdict: VerdictDead, Payload: job.Payload, Score: at, Exhausted: true, Reason: "cannot be written again as JSON"}, nil
	}
	r := Retry{Verdict: VerdictRetry, Score: at}
	stamp := stampJSON(at, o.Milliseconds)
	failedAt := at
	fields := make([]Field, 0, 8)
	set := func(name, raw string) { fields = append(fields, Field{Name: name, Raw: raw}) }

	queue := job.Retry.RetryQueue
	if queue == "" {
		queue = fetchedFrom
	}
	set("queue", JSONString(queue))
	set("error_message", JSONString(firstCharacters(failure.Message, maxErrorMessage)))
	set("error_class", JSONString(failure.Class))
	if job.HasRetryCount {
		r.Count = job.RetryCount + 1
		set("retried_at", stamp)
		if job.FailedAt != 0 {
			failedAt = float64(job.FailedAt)
		} else {
			// Ruby's own page of the entry breaks without it.
			set("failed_at", stamp)
		}
	} else {
		set("failed_at", stamp)
	}
	set("retry_count", JSONInt(int64(r.Count)))
	if job.Retry.Backtrace != 0 {
		encoded, err := encodeBacktrace(failure.Backtrace, job.Retry.Backtrace)
		if err != nil {
			return Retry{}, err
		}
		set("error_backtrace", encoded)
	}
	if job.Retry.Missing {
		set("retry", "true")
	}
	var err error
	if r.Payload, err = SetFields(job.Payload, fields...); err != nil {
		return Retry{}, err
	}
	r.decide(job, failedAt, at, o)
	return r, nil
}

// decide fills Verdict, Score, Exhausted and Reason.
func (r *Retry) decide(job Job, failedAt, at float64, o RetryOptions) {
	limit := o.MaxRetries
	if limit == 0 {
		limit = defaultMaxRetries
	}
	if job.Retry.Numbered {
		limit = job.Retry.Max
	}
	window := job.Retry.RetryFor.Seconds()
	switch {
	case window > 0 && failedAt+window < at:
		r.exhaust(job, "retry_for has passed")
		return
	case r.Count >= limit && (window == 0 || o.RetryForByCount):
		r.exhaust(job, fmt.Sprintf("%d retries are used up", limit))
		return
	}
	delay := defaultDelay(r.Count)
	if o.Delay != nil {
		custom, rule := o.Delay(r.Count)
		switch {
		case rule == DelayKill:
			r.exhaust(job, "killed by its delay rule")
			return
		case rule == DelayDiscard:
			r.Verdict, r.Exhausted, r.Reason = VerdictDiscard, true, "discarded by its delay rule"
			return
		case rule == DelayCustom && custom >= time.Second:
			delay = custom.Truncate(time.Second).Seconds()
		}
	}
	random := o.Rand
	if random == nil {
		random = rand.IntN
	}
	spread := max(1, r.Count+1)
	var jitter int
	if o.Jitter7 {
		jitter = random(10) * spread
	} else {
		jitter = random(10 * spread)
	}
	r.Score = at + delay + float64(jitter)
	r.Reason = "retry"
}

func (r *Retry) exhaust(job Job, reason string) {
	r.Verdict, r.Exhausted, r.Reason = VerdictDead, true, reason
	if job.Retry.NoDead {
		r.Verdict = VerdictDiscard
	}
}

func defaultDelay(count int) float64 {
	c := float64(count)
	return c*c*c*c + 15
}

func unixSeconds(t time.Time) float64 {
	return float64(t.Unix()) + float64(t.Nanosecond())/1e9
}

// stampJSON prints a payload's timestamp.
func stampJSON(at float64, milliseconds bool) string {
	if milliseconds {
		return JSONInt(int64(at * 1000))
	}
	return JSONFloatSeconds(at)
}

// firstCharacters cuts s to at most n characters and makes it valid UTF-8.
func firstCharacters(s string, n int) string {
	if len(s) > n {
		for i := range s {
			if n == 0 {
				s = s[:i]
				break
			}
			n--
		}
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\ufffd")
	}
	return s
}

// encodeBacktrace makes the JSON string of base64(zlib(JSON array)) on one line, lines -1 for all.
func encodeBacktrace(trace []string, lines int) (string, error) {
	if lines >= 0 && len(trace) > lines {
		trace = trace[:lines]
	}
	text := []byte{'['}
	for i, line := range trace {
		if i > 0 {
			text = append(text, ',')
		}
		text = appendString(text, strings.ToValidUTF8(line, "\ufffd"))
	}
	text = append(text, ']')
	var packed bytes.Buffer
	w := zlib.NewWriter(&packed)
	if _, err := w.Write(text); err != nil {
		return "", fmt.Errorf("packing a backtrace: %w", err)
	}
	if err := w.Close(); err != nil {
		return "", fmt.Errorf("packing a backtrace: %w", err)
	}
	return `"` + base64.StdEncoding.EncodeToString(packed.Bytes()) + `"`, nil
}
