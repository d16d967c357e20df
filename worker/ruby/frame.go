package ruby

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A frame is a length (4 bytes, big endian, of what follows), a type (1 byte) and a body. Version 1:
//
//	from Ruby, any        H hello, JSON of hello: the first frame of every connection
//	from Ruby, work       R asks for a job; D a job is done (doneSize bytes); E is D and R; B gives a job back untouched (its number)
//	from Ruby, control    T where a thread is (line number, text); Q it was told to be quiet; K a lost cron tick, JSON
//	from Ruby, zygote     P preloaded; F forked, X a child ended, N it could not fork: JSON
//	to Ruby, work         J a job: number, length of the queue's name, name, payload; N there is none
//	to Ruby, control      T where is the thread of this line
//	to Ruby, zygote       F fork, JSON
//
// A connection of the kind log has only the hello; text follows.
const protocolVersion = 1

const (
	maxSmallFrame   = 4 << 10  // bytes Ruby may send in one frame
	maxControlFrame = 64 << 10 // same, on control connections: backtraces
	doneSize        = 4*8 + 1  // number, wall, cpu, db in microseconds; failed
	jobHead         = 8 + 2
	maxQueueName    = 1 << 15
)

var errFrame = errors.New("bad frame")

// readFrame reads one frame of at most limit bytes into buf, which it may grow; body is valid until the next call.
func readFrame(r io.Reader, buf []byte, limit int) (kind byte, body, grown []byte, err error) {
	if cap(buf) < 64 {
		buf = make([]byte, 64)
	}
	buf = buf[:cap(buf)]
	if _, err := io.ReadFull(r, buf[:5]); err != nil {
		return 0, nil, buf, err
	}
	size := binary.BigEndian.Uint32(buf)
	if size < 1 || int64(size) > int64(limit) {
		return 0, nil, buf, fmt.Errorf("%w: %d bytes, at most %d are allowed", errFrame, size, limit)
	}
	kind = buf[4]
	n := int(size) - 1
	if n > len(buf) {
		buf = make([]byte, n)
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, buf, err
	}
	return kind, buf[:n], buf, nil
}

// appendFrame appends a whole frame.
func appendFrame(b []byte, kind byte, body ...string) []byte {
	size := 1
	for _, part := range body {
		size += len(part)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(size)) //nolint:gosec // callers stay far below: Redis ends at 512 MiB
	b = append(b, kind)
	for _, part := range body {
		b = append(b, part...)
	}
	return b
}

// jobFrame is the frame that gives a job to Ruby.
func jobFrame(number uint64, queue, payload string) ([]byte, error) {
	if len(queue) > maxQueueName {
		return nil, fmt.Errorf("%w: the queue's name has %d bytes", errFrame, len(queue))
	}
	var head [jobHead]byte
	binary.BigEndian.PutUint64(head[:], number)
	binary.BigEndian.PutUint16(head[8:], uint16(len(queue))) //nolint:gosec // bounded above
	return appendFrame(make([]byte, 0, 5+jobHead+len(queue)+len(payload)), 'J', string(head[:]), queue, payload), nil
}

// done is what Ruby reports of an acknowledged job.
type done struct {
	number        uint64
	wall, cpu, db uint64 // microseconds
	failed        bool
}

// maxMicroseconds bounds what Ruby can say of a time: 30 days.
const maxMicroseconds = 30 * 24 * 3600 * 1_000_000

func parseDone(b []byte) (done, error) {
	if len(b) != doneSize {
		return done{}, fmt.Errorf("%w: a D of %d bytes", errFrame, len(b))
	}
	d := done{
		number: binary.BigEndian.Uint64(b), wall: binary.BigEndian.Uint64(b[8:]), cpu: binary.BigEndian.Uint64(b[16:]),
		db: binary.BigEndian.Uint64(b[24:]), failed: b[32] != 0,
	}
	d.wall, d.cpu, d.db = min(d.wall, maxMicroseconds), min(d.cpu, maxMicroseconds), min(d.db, maxMicroseconds)
	return d, nil
}

func parseNumber(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: a number of %d bytes", errFrame, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

func numberBody(n uint64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	return string(b[:])
}

// hello is how every connection begins.
type hello struct {
	Version int    `json:"v"`
	Kind    string `json:"kind"` // work, control, log, zygote
	Token   string `json:"token"`
	PID     int    `json:"pid"` // as Ruby sees it; the socket's own word counts
	Line    uint64 `json:"line"`
	Thread  int    `json:"thread"` // as the system counts them; 0: unknown
	Sidekiq string `json:"sidekiq"`
	Ruby    string `json:"ruby"`
}

func parseHello(kind byte, body []byte) (hello, error) {
	var h hello
	if kind != 'H' {
		return h, fmt.Errorf("%w: %q instead of a hello", errFrame, kind)
	}
	if err := json.Unmarshal(body, &h); err != nil {
		return h, fmt.Errorf("%w: hello: %w", errFrame, err)
	}
	if h.Version != protocolVersion {
		return h, fmt.Errorf("%w: protocol version %d, this is %d", errFrame, h.Version, protocolVersion)
	}
	return h, nil
}

// forkOrder asks the zygote for a child.
type forkOrder struct {
	Token  string            `json:"token"`
	Env    map[string]string `json:"env"`
	Queues []string          `json:"queues"`
	Cron   bool              `json:"cron"`
}

// forkReport is what the zygote says of a child.
type forkReport struct {
	Token  string `json:"token"`
	PID    int    `json:"pid"`
	Exit   int    `json:"exit"` // −1 if it died of Signal
	Signal int    `json:"signal"`
	Error  string `json:"error"`
}

// tickReport is a cron tick that an earlier leader did not push.
type tickReport struct {
	Entry  string  `json:"entry"`
	Due    float64 `json:"due"` // Unix seconds
	MadeUp bool    `json:"made_up"`
}
