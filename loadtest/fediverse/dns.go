package fediverse

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	dnsTTLSeconds   = 30
	dnsMaxMessage   = 1232 // what fits a UDP packet anywhere
	dnsTCPTimeout   = 10 * time.Second
	dnsMaxTCPConns  = 64
	dnsMinMessage   = 12 // a header
	dnsTCPReadBytes = 4096
)

// nameServer answers for the names of one fediverse, on one port of 127.0.0.1, UDP and TCP. It knows A records; other types of a
// known name have no data, unknown names do not exist.
type nameServer struct {
	records map[string]nameRecord // by lower-case name without the last dot
	udp     net.PacketConn
	tcp     net.Listener
	slots   chan struct{} // bounds TCP connections

	mu    sync.Mutex
	conns map[net.Conn]struct{} // open connections, the resolvers' own too, to be closed by close; nil after it

	wg sync.WaitGroup
}

type nameRecord struct {
	address netip.Addr
	naming  Naming
}

// startNames binds the server and starts its two goroutines.
func startNames(ctx context.Context, records map[string]nameRecord) (*nameServer, error) {
	var listen net.ListenConfig
	var lastErr error
	// The kernel gives a UDP port; the TCP port of the same number may be taken, though rarely twice.
	for range 20 {
		udp, err := listen.ListenPacket(ctx, "udp4", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("listen for names: %w", err)
		}
		tcp, err := listen.Listen(ctx, "tcp4", udp.LocalAddr().String())
		if err != nil {
			lastErr = errors.Join(err, udp.Close())

			continue
		}
		s := &nameServer{
			records: records, udp: udp, tcp: tcp,
			slots: make(chan struct{}, dnsMaxTCPConns), conns: make(map[net.Conn]struct{}),
		}
		s.wg.Go(s.serveUDP)
		s.wg.Go(s.serveTCP)

		return s, nil
	}

	return nil, fmt.Errorf("listen for names: %w", lastErr)
}

// addr is where the server listens.
func (s *nameServer) addr() string { return s.udp.LocalAddr().String() }

// resolver returns a resolver that asks this server only. Go's lookups outlive the context of whoever asked; close ends them.
func (s *nameServer) resolver() *net.Resolver {
	address := s.addr()

	return &net.Resolver{
		PreferGo: true, // libc would ask the machine's own servers
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			if !s.track(conn) {
				return nil, errors.Join(net.ErrClosed, conn.Close())
			}
			if udp, ok := conn.(*net.UDPConn); ok { // still a PacketConn: that is how the resolver tells UDP from TCP
				return &trackedUDPConn{UDPConn: udp, forget: func() { s.forget(udp) }}, nil
			}

			return &trackedConn{Conn: conn, forget: func() { s.forget(conn) }}, nil
		},
	}
}

// trackedUDPConn and trackedConn are a client's connections, known to the server until they are closed.
type (
	trackedUDPConn struct {
		*net.UDPConn
		forget func()
	}
	trackedConn struct {
		net.Conn
		forget func()
	}
)

func (c *trackedUDPConn) Close() error { c.forget(); return c.UDPConn.Close() }
func (c *trackedConn) Close() error    { c.forget(); return c.Conn.Close() }

// track remembers a connection for close; false when close has been called.
func (s *nameServer) track(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		return false
	}
	s.conns[conn] = struct{}{}

	return true
}

func (s *nameServer) forget(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

// close ends the server and waits for its goroutines.
func (s *nameServer) close() error {
	err := errors.Join(s.udp.Close(), s.tcp.Close())
	s.mu.Lock()
	for conn := range s.conns {
		_ = conn.Close() // its user closes it too
	}
	s.conns = nil
	s.mu.Unlock()
	s.wg.Wait()

	return err
}

func (s *nameServer) serveUDP() {
	buf := make([]byte, dnsMaxMessage)
	for {
		n, from, err := s.udp.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}

			continue
		}
		if reply := s.answer(buf[:n]); reply != nil {
			_, _ = s.udp.WriteTo(reply, from) // a lost packet is the client's to ask for again
		}
	}
}

func (s *nameServer) serveTCP() {
	for {
		conn, err := s.tcp.Accept()
		if err != nil {
			return
		}
		select {
		case s.slots <- struct{}{}:
		default:
			_ = conn.Close()

			continue
		}
		if !s.track(conn) {
			_ = conn.Close()

			return
		}
		s.wg.Go(func() {
			s.serveConn(conn)
			s.forget(conn)
			_ = conn.Close()
			<-s.slots
		})
	}
}

// serveConn answers the questions of one TCP connection, each with its length before it.
func (s *nameServer) serveConn(conn net.Conn) {
	for {
		if err := conn.SetDeadline(time.Now().Add(dnsTCPTimeout)); err != nil {
			return
		}
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		if n < dnsMinMessage || n > dnsTCPReadBytes {
			return
		}
		query := make([]byte, n)
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		reply := s.answer(query)
		if reply == nil {
			return
		}
		framed := binary.BigEndian.AppendUint16(make([]byte, 0, len(reply)+2), uint16(len(reply)))
		if _, err := conn.Write(append(framed, reply...)); err != nil {
			return
		}
	}
}

// answer builds the reply to one query; nil means silence: the query is no query, or its name is one that times out.
func (s *nameServer) answer(query []byte) []byte {
	var parser dnsmessage.Parser
	header, err := parser.Start(query)
	if err != nil || header.Response {
		return nil
	}
	question, err := parser.Question()
	if err != nil {
		return nil
	}
	record, known := s.records[strings.ToLower(strings.TrimSuffix(question.Name.String(), "."))]
	reply := dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired, RecursionAvailable: true}
	switch {
	case !known || record.naming == NameMissing:
		reply.RCode = dnsmessage.RCodeNameError
	case record.naming == NameServfail:
		reply.RCode = dnsmessage.RCodeServerFailure
	case record.naming == NameTimeout:
		return nil
	}
	hasAddress := reply.RCode == dnsmessage.RCodeSuccess && question.Type == dnsmessage.TypeA && question.Class == dnsmessage.ClassINET
	packet, err := build(reply, question, record.address, hasAddress)
	if err != nil {
		return nil
	}

	return packet
}

func build(header dnsmessage.Header, question dnsmessage.Question, address netip.Addr, hasAddress bool) ([]byte, error) {
	builder := dnsmessage.NewBuilder(make([]byte, 0, 128), header)
	builder.EnableCompression()
	if err := builder.StartQuestions(); err != nil {
		return nil, fmt.Errorf("build reply: %w", err)
	}
	if err := builder.Question(question); err != nil {
		return nil, fmt.Errorf("build reply: %w", err)
	}
	if hasAddress {
		if err := builder.StartAnswers(); err != nil {
			return nil, fmt.Errorf("build reply: %w", err)
		}
		resource := dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: dnsTTLSeconds}
		if err := builder.AResource(resource, dnsmessage.AResource{A: address.As4()}); err != nil {
			return nil, fmt.Errorf("build reply: %w", err)
		}
	}
	packet, err := builder.Finish()
	if err != nil {
		return nil, fmt.Errorf("build reply: %w", err)
	}

	return packet, nil
}
