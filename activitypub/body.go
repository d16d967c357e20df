package activitypub

import (
	"io"
	"strings"
	"sync"
)

// jobBody is the body of a delivery. While an answer is awaited nobody needs it, but of a thousand deliveries in flight it is 5 MB, so it is
// given back once it has been sent, if the job's arguments can give it again.
type jobBody struct {
	size int
	args string // raw JSON text of the arguments; "" when the body cannot be read again

	mu   sync.Mutex
	text string // "" after forget
}

func newJobBody(text, args string) *jobBody {
	return &jobBody{size: len(text), args: args, text: text}
}

// get returns the body, reading it again from the arguments if it has been given back.
func (b *jobBody) get() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.text == "" && b.size > 0 {
		d, err := ParseArgs(b.args)
		if err != nil || len(d.Body) != b.size {
			return "" // the request then fails for its length; the arguments were read before, so this does not happen
		}
		b.text = d.Body
	}
	return b.text
}

// forget gives the body back.
func (b *jobBody) forget() {
	if b.args == "" {
		return
	}
	b.mu.Lock()
	b.text = ""
	b.mu.Unlock()
}

// reader is the body on its way out. A transport may close it while it is being read.
func (b *jobBody) reader() io.ReadCloser {
	r := &bodyReader{of: b}
	r.text.Reset(b.get())
	return r
}

type bodyReader struct {
	of   *jobBody
	mu   sync.Mutex
	text strings.Reader
}

// Read implements io.Reader.
func (r *bodyReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Read(p)
}

// Close implements io.Closer.
func (r *bodyReader) Close() error {
	r.mu.Lock()
	r.text.Reset("")
	r.mu.Unlock()
	r.of.forget()
	return nil
}
