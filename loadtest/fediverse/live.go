package fediverse

import (
	"net"
	"net/http"
	"time"
)

// Live decides anew, at each connection and each request, what a host does, in place of what its Behaviour says of that: for hosts that
// change while they run. Methods are called from many goroutines and must be quick.
type Live interface {
	// Connecting is how host number host (of Config.Hosts) takes the connection that has just come. ConnectRefuse resets it.
	Connecting(host int) Connecting
	// Answer is what it does with a request whose signature and digest are right.
	Answer(host int, key Key) Answer
}

// Answer is what a live host does with one request.
type Answer struct {
	After  time.Duration // how long it takes before it answers
	Status int           // 0 means 202
	Hang   bool          // never answers, until the client leaves (or two minutes have passed)
	Drip   bool          // answers byte by byte, one a second, until the client leaves (or two minutes have passed)
}

// liveListener asks at each connection whether it is served.
type liveListener struct {
	net.Listener
	f    *Fediverse
	host int
}

// Accept implements net.Listener.
func (l *liveListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		switch l.f.cfg.Live.Connecting(l.host) {
		case ConnectAccept:
			return conn, nil
		case ConnectRefuse:
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // a reset, as from a port where nobody listens
			}
			_ = conn.Close()
		case ConnectSilent, ConnectBlackhole:
			l.f.hosts[l.host].counters.connections.Add(1)
			l.f.keepSilent(conn)
		}
	}
}

// answerLive does what Live says with a request that can be trusted.
func (f *Fediverse) answerLive(in *instance, w http.ResponseWriter, r *http.Request, key Key) {
	a := f.cfg.Live.Answer(in.number, key)
	switch {
	case a.Hang:
		f.wait(r.Context(), maxLatency)
		in.counters.abandoned.Add(1)
		return
	case a.Drip:
		w.WriteHeader(http.StatusOK)
		for range int(maxLatency / time.Second) {
			if _, err := w.Write([]byte{'.'}); err != nil || http.NewResponseController(w).Flush() != nil || !f.wait(r.Context(), time.Second) {
				break
			}
		}
		in.counters.abandoned.Add(1)
		return
	}
	if !f.wait(r.Context(), min(a.After, maxLatency)) {
		in.counters.abandoned.Add(1)
		return
	}
	status := a.Status
	if status == 0 {
		status = http.StatusAccepted
	}
	f.finish(in, w, status, key)
}
