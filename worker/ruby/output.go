package ruby

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"unicode"
)

const (
	maxLine   = 2000 // bytes of a line of output that are logged
	tailLines = 40   // lines kept for the report of a failed boot
)

// output takes a child's output into the log, line by line, and keeps its end.
type output struct {
	log *slog.Logger
	pid func() int

	mu   sync.Mutex
	tail []string
}

// read logs lines until r ends. A line longer than maxLine is cut; what is not printable is replaced, for it comes from elsewhere.
func (o *output) read(r io.Reader) {
	b := bufio.NewReaderSize(r, maxLine)
	for {
		text, err := b.ReadSlice('\n')
		o.take(text, errors.Is(err, bufio.ErrBufferFull))
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = b.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

func (o *output) take(text []byte, cut bool) {
	line := printable(bytes.TrimRight(text, "\r\n"))
	if line == "" {
		return
	}
	if cut {
		line += " …"
	}
	o.mu.Lock()
	if len(o.tail) == tailLines {
		o.tail = append(o.tail[:0], o.tail[1:]...)
	}
	o.tail = append(o.tail, line)
	o.mu.Unlock()
	o.log.Info("ruby", slog.Int("pid", o.pid()), slog.String("line", line))
}

// last is the end of what was read.
func (o *output) last() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.tail...)
}

// printable drops colour sequences and other control characters.
func printable(b []byte) string {
	var out strings.Builder
	escape := false
	for _, r := range string(bytes.ToValidUTF8(b, []byte("�"))) {
		switch {
		case escape:
			escape = !unicode.IsLetter(r)
		case r == 0x1b:
			escape = true
		case r == '\t':
			out.WriteByte(' ')
		case !unicode.IsControl(r):
			out.WriteRune(r)
		}
	}
	return strings.TrimSpace(out.String())
}

// Hint says what a failed boot's last lines point to; "" if nothing is known.
func Hint(lines []string) string {
	for _, l := range slices.Backward(lines) {
		if strings.HasPrefix(strings.TrimSpace(l), "from ") { // a backtrace names files that are not the reason
			continue
		}
		has := func(words ...string) bool {
			for _, w := range words {
				if strings.Contains(l, w) {
					return true
				}
			}
			return false
		}
		switch {
		case has("Could not locate Gemfile", "Gemfile not found"):
			return "there is no Gemfile: is this the directory of the Ruby application?"
		case has("Could not find", "Bundler::GemNotFound", "bundle install"):
			return "a gem is missing: run `bundle install` in the application's directory, as its user"
		case has("cannot load such file -- sidekiq"):
			return "Sidekiq is not among the gems of this Ruby: is it started through the application's bundle?"
		case has("cannot load such file"):
			return "a Ruby file or gem is missing: is the bundle complete, and the directory right?"
		case has("Your Ruby version is"):
			return "another Ruby is needed: put that of the application (e.g. ~/.rbenv/shims) first in PATH"
		case has("Please point Sidekiq to", "config/application.rb"):
			return "no Rails application is there: is it the right directory?"
		case has("PG::ConnectionBad", "could not connect to server", "ActiveRecord::ConnectionNotEstablished", "ActiveRecord::NoDatabaseError"):
			return "the application cannot reach its database"
		case has("Redis::CannotConnectError", "RedisClient::CannotConnectError", "Error connecting to Redis"):
			return "the application cannot reach Redis"
		case has("SECRET_KEY_BASE", "Missing secret_key_base", "ACTIVE_RECORD_ENCRYPTION", "KeyError: key not found"):
			return "the application's settings are not complete: is .env.production readable by this user?"
		case has("Permission denied", "Errno::EACCES"):
			return "a file cannot be read: does this run as the application's user?"
		case has("Cannot allocate memory", "failed to allocate memory", "NoMemoryError"):
			return "there is not enough memory to start Ruby"
		}
	}
	return ""
}
