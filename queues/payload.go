package queues

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Timestamp is a time as a payload holds it, in Unix seconds; zero when absent or not a number. A JSON number with a
// fraction or an exponent is seconds (Sidekiq ≤ 7), without it is milliseconds (Sidekiq 8), but seconds below 10¹¹, as
// old data has it.
type Timestamp float64

// Time returns the timestamp as a time; the zero time if absent.
func (t Timestamp) Time() time.Time {
	if t == 0 {
		return time.Time{}
	}
	whole, frac := math.Modf(float64(t))
	return time.Unix(int64(whole), int64(frac*1e9))
}

// Job is a payload with what an engine reads of it. Strings are substrings of Payload where they hold no escapes.
type Job struct {
	Payload string // exactly as stored
	Class   string // "class"; "" if absent or not a string
	Wrapped string // "wrapped", the class inside an ActiveJob wrapper; "" if absent
	JID     string // "jid"; any string
	Queue   string // the payload's own "queue"; can differ from the list it was in
	Args    string // raw JSON text of "args", "" if absent; not checked to be an array
	Hold    string // raw JSON text of "queueville_hold", "" if absent

	Retry         RetryRule // as read from "retry", "dead", "retry_for", "retry_queue", "backtrace"
	RetryCount    int       // meaningful when HasRetryCount; -1 after "retry now"
	HasRetryCount bool
	CreatedAt     Timestamp
	EnqueuedAt    Timestamp
	FailedAt      Timestamp
	RetriedAt     Timestamp

	lossy bool // holds half a surrogate pair or a number beyond float64
	high  bool // holds bytes that are not ASCII
}

// Unrepeatable tells whether Ruby can read the payload but not write it again (invalid UTF-8, half a surrogate pair, a number beyond
// float64), so that Ruby's poller would lose it. Such a job must not go into retry or schedule; RetryEntry buries it. It is asked of few
// jobs and reads the whole text, so it is not part of ParseJob.
func (j *Job) Unrepeatable() bool {
	return j.lossy || j.high && !utf8.ValidString(j.Payload)
}

// Name is what metrics and people call the job's class: Wrapped if there is one, else Class.
func (j *Job) Name() string {
	if j.Wrapped != "" {
		return j.Wrapped
	}
	return j.Class
}

// RetryRule is what a payload says about its retries.
type RetryRule struct {
	Enabled    bool          // not "retry": false
	Max        int           // "retry" if it is an integer; meaningful when Numbered
	Numbered   bool          // "retry" is an integer; else the process's max_retries counts (25)
	Missing    bool          // "retry" absent or null: Enabled, with the default
	RetryFor   time.Duration // "retry_for"; 0 if absent
	RetryQueue string        // "retry_queue"
	NoDead     bool          // "dead": false
	Backtrace  int           // lines to keep: 0 none, -1 all
}

// defaultMaxRetries is Sidekiq's max_retries.
const defaultMaxRetries = 25

// MalformedJobError says why a payload is not a job.
type MalformedJobError struct{ Reason string }

func (e *MalformedJobError) Error() string { return "malformed job: " + e.Reason }

// burialNote stands before JSON that is no object when it is buried.
const burialNote = "not a job: "

// Burial is what to put into the dead set of a payload that is no job: its bytes. Only JSON that is no object gets a note in front, for with
// it alone Ruby's page of dead jobs answers 500; other text that is not JSON it shows as it is.
func Burial(payload string) string {
	text := strings.TrimLeft(payload, " \t\r\n")
	if text == "" || text[0] == '{' || !json.Valid([]byte(payload)) {
		return payload
	}
	return burialNote + payload
}

// ParseJob reads a payload's top level without decoding args. It validates the whole text and gives a
// *MalformedJobError for what Ruby's JSON parser refuses (comments too, which Ruby takes) and for anything that is not
// an object. Of a duplicated key the last one counts. It allocates nothing unless a field it reads has escapes.
func ParseJob(payload string) (Job, error) {
	job := Job{Payload: payload}
	job.Retry = RetryRule{Enabled: true, Max: defaultMaxRetries, Missing: true}
	p := scanner{s: payload}
	var m member
	for p.begin(); p.member(&m); {
		job.take(m.name(payload), payload[m.value:m.end])
	}
	if err := p.malformed(); err != nil {
		return Job{Payload: payload}, err
	}
	job.lossy, job.high = p.lossy, p.high&highs != 0
	return job, nil
}

// take reads one top-level member.
func (j *Job) take(name, raw string) {
	switch name {
	case "class":
		j.Class = text(raw)
	case "wrapped":
		j.Wrapped = text(raw)
	case "jid":
		j.JID = text(raw)
	case "queue":
		j.Queue = text(raw)
	case "args":
		j.Args = raw
	case "queueville_hold":
		j.Hold = raw
	case "retry":
		j.Retry.take(raw)
	case "retry_for":
		j.Retry.RetryFor = seconds(raw)
	case "retry_queue":
		j.Retry.RetryQueue = text(raw)
	case "dead":
		j.Retry.NoDead = raw == "false"
	case "backtrace":
		j.Retry.Backtrace = backtraceLines(raw)
	case "retry_count":
		j.RetryCount, j.HasRetryCount = integer(raw)
	case "created_at":
		j.CreatedAt = timestamp(raw)
	case "enqueued_at":
		j.EnqueuedAt = timestamp(raw)
	case "failed_at":
		j.FailedAt = timestamp(raw)
	case "retried_at":
		j.RetriedAt = timestamp(raw)
	}
}

func (r *RetryRule) take(raw string) {
	r.Enabled, r.Missing, r.Numbered, r.Max = raw != "false", raw == "null", false, defaultMaxRetries
	if isInteger(raw) {
		r.Max, r.Numbered = integer(raw)
	}
}

// text returns the string that raw JSON text stands for, "" if it is something else.
func text(raw string) string {
	if len(raw) < 2 || raw[0] != '"' {
		return ""
	}
	return unescape(raw[1 : len(raw)-1])
}

func isNumber(raw string) bool {
	return raw != "" && (raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9')
}

func isInteger(raw string) bool { return isNumber(raw) && !strings.ContainsAny(raw, ".eE") }

// integer reads a number, a fraction cut off, beyond the range of int32 the nearest end of it; false if raw is no number.
func integer(raw string) (int, bool) {
	if !isNumber(raw) {
		return 0, false
	}
	f, err := strconv.ParseFloat(raw, 64)
	if err != nil && !math.IsInf(f, 0) {
		return 0, false
	}
	return int(max(math.MinInt32, min(math.MaxInt32, f))), true
}

// maxRetryFor is Sidekiq's own bound on retry_for.
const maxRetryFor = 1_000_000_000

func seconds(raw string) time.Duration {
	if !isNumber(raw) {
		return 0
	}
	f, _ := strconv.ParseFloat(raw, 64)
	return time.Duration(max(0, min(f, maxRetryFor)) * float64(time.Second))
}

func backtraceLines(raw string) int {
	if raw == "true" {
		return -1
	}
	n, ok := integer(raw)
	if !ok || n < 0 {
		return 0
	}
	return n
}

// oldestMilliseconds: an integer below this is seconds (10¹¹ ms is 1973, 10¹¹ s the year 5138).
const oldestMilliseconds = 1e11

func timestamp(raw string) Timestamp {
	if !isNumber(raw) {
		return 0
	}
	f, err := strconv.ParseFloat(raw, 64)
	if err != nil {
		return 0
	}
	if f >= oldestMilliseconds && isInteger(raw) {
		f /= 1000
	}
	return Timestamp(f)
}

// TopLevel returns the raw JSON text of one top-level field, the last one if it is there more than once. It reports
// false if there is none, or if payload is not a JSON object.
func TopLevel(payload, name string) (raw string, ok bool) {
	p := scanner{s: payload}
	var m member
	for p.begin(); p.member(&m); {
		if m.name(payload) == name {
			raw, ok = payload[m.value:m.end], true
		}
	}
	if p.malformed() != nil {
		return "", false
	}
	return raw, ok
}

// InShare says whether a jid is in a share of 10,000; the same jid is always in or always out, and one that is in a
// share is in every larger one. It is the rule of Look.Share: the last four hex digits, read as a fraction of 65,536. A
// jid that does not end in four hex digits is only in the whole.
func InShare(jid string, share int) bool {
	if share >= 10_000 {
		return true
	}
	if len(jid) < 4 {
		return false
	}
	n := hex4(jid, len(jid)-4)
	return n >= 0 && n*10_000 < share*65_536
}
