package dbpool

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"
)

// ErrUnavailable is what Classify puts before an error that says the database cannot be reached now.
var ErrUnavailable = errors.New("database unavailable")

// Classify returns err, as an ErrUnavailable when Unavailable says so. The cause stays in the chain.
func Classify(err error) error {
	if err == nil || errors.Is(err, ErrUnavailable) || !Unavailable(err) {
		return err
	}
	return unavailableError{err}
}

// unavailableError is ErrUnavailable with its cause.
type unavailableError struct{ cause error }

func (e unavailableError) Error() string   { return ErrUnavailable.Error() + ": " + e.cause.Error() }
func (e unavailableError) Unwrap() []error { return []error{ErrUnavailable, e.cause} }

// Unavailable tells whether err is about the database being away, overloaded or in the middle of a fail-over, and not about the query:
// trying later may help, and the job is not to blame. That is: no connection could be had, whatever the reason; it broke; a deadline
// passed; the server is starting, stopping, out of connections or memory, or has become read-only. A context that was cancelled is not.
func Unavailable(err error) bool {
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return false
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.DeadlineExceeded), pgconn.Timeout(err):
		return true
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		return unavailableState(pe.Code)
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	for _, target := range []error{
		io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.EPIPE, puddle.ErrClosedPool,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	// Nothing was sent: the connection was found dead (pgconn's "conn closed" has no other mark).
	return pgconn.SafeToRetry(err)
}

// unavailableState judges an SQLSTATE (PostgreSQL manual, appendix A).
func unavailableState(code string) bool {
	switch {
	case strings.HasPrefix(code, "08"): // connection exceptions; PgBouncer reports its own troubles as 08P01
		return true
	case strings.HasPrefix(code, "53"): // out of connections, memory, disk
		return true
	}
	switch code {
	case "57P01", "57P02", "57P03", "57P05", // shutting down, crashed, not yet up, idle session ended
		"57014", // cancelled: by statement_timeout or by an administrator
		"25006", // read-only: a primary that has become a replica
		"55P03": // a lock was not to be had in lock_timeout
		return true
	}
	return false
}
