package ruby

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"
)

func FuzzFrames(f *testing.F) {
	f.Add(appendFrame(nil, 'H', `{"v":1,"kind":"work","token":"t","line":1}`))
	f.Add(appendFrame(appendFrame(nil, 'R'), 'D', strings.Repeat("\x00", doneSize)))
	f.Add(appendFrame(nil, 'B', numberBody(7)))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 'H'})
	f.Add([]byte{0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		var buf []byte
		for {
			kind, body, grown, err := readFrame(r, buf, maxSmallFrame)
			if buf = grown; err != nil {
				return
			}
			if len(body) >= maxSmallFrame || len(buf) > maxSmallFrame {
				t.Fatalf("%d bytes of %d", len(body), len(buf))
			}
			if got := appendFrame(nil, kind, string(body)); !bytes.Contains(data, got) {
				t.Fatalf("%q is not in %q", got, data)
			}
			_, _ = parseHello(kind, body)
			if d, err := parseDone(body); err == nil && (d.wall > maxMicroseconds || d.cpu > maxMicroseconds || d.db > maxMicroseconds) {
				t.Fatalf("%+v", d)
			}
			_, _ = parseNumber(body)
		}
	})
}

// What connects and talks nonsense, or under another's name, changes nothing.
func TestRubySocketIgnoresStrangers(t *testing.T) {
	r := newRig(t, nil)
	r.ready(1)
	r.s.mu.Lock()
	socket, token := r.s.socket, r.s.procs[0].token
	r.s.mu.Unlock()
	hello := func(kind, token string) string {
		return string(appendFrame(nil, 'H', `{"v":1,"kind":"`+kind+`","token":"`+token+`","line":9}`))
	}
	for name, text := range map[string]string{
		"garbage":               "GET / HTTP/1.1\r\n\r\n",
		"too long":              "\x7f\xff\xff\xffH",
		"no JSON":               string(appendFrame(nil, 'H', "{")),
		"another version":       string(appendFrame(nil, 'H', `{"v":2,"kind":"work","token":"`+token+`"}`)),
		"unknown token":         hello("work", "x") + string(appendFrame(nil, 'R')),
		"another process":       hello("work", token) + string(appendFrame(nil, 'R')),
		"a parent it is not":    hello("zygote", token) + string(appendFrame(nil, 'P')),
		"a control it is not":   hello("control", token) + string(appendFrame(nil, 'Q')),
		"hello and nothing":     hello("work", token),
		"half a frame":          "\x00\x00",
		"not a hello first":     string(appendFrame(nil, 'R')),
		"a kind there is not":   hello("wonder", token),
		"a very long kind name": hello(strings.Repeat("k", 3000), token),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := new(net.Dialer).DialContext(t.Context(), "unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close() //nolint:errcheck // the other side has closed it
			if _, err := conn.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			if c, ok := conn.(*net.UnixConn); ok {
				_ = c.CloseWrite()
			}
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			if n, err := conn.Read(make([]byte, 100)); n > 0 || !isEnd(err) {
				t.Errorf("answer of %d bytes, %v", n, err)
			}
		})
	}
	r.s.Submit([]Job{job("Noop", "j", "[]")})
	if res := r.result("j"); res.Kind != Acked {
		t.Errorf("result = %+v", res)
	}
}

// talk makes a thread of the process that is the test itself.
func talk(t *testing.T, frames ...[]byte) (*Supervisor, *line, error) {
	t.Helper()
	s, err := New(Config{Command: Command{Ruby: []string{"ruby"}, Dir: "."}, Queues: []string{"q"}, Done: func(Job, Result) {}})
	if err != nil {
		t.Fatal(err)
	}
	p := &process{state: serving, lines: map[*line]struct{}{}, jobs: map[uint64]*running{}}
	s.procs = append(s.procs, p)
	l := &line{proc: p}
	p.lines[l] = struct{}{}
	return s, l, s.readLine(bytes.NewReader(bytes.Join(frames, nil)), nil, l)
}

func TestBadFramesOfAThreadEndIt(t *testing.T) {
	for name, frames := range map[string][][]byte{
		"asks twice":                   {appendFrame(nil, 'R'), appendFrame(nil, 'R')},
		"done with nothing":            {appendFrame(nil, 'D', strings.Repeat("\x00", doneSize))},
		"done, and asks, with nothing": {appendFrame(nil, 'E', strings.Repeat("\x00", doneSize))},
		"gives back nothing":           {appendFrame(nil, 'B', numberBody(1))},
		"a short D":                    {appendFrame(nil, 'D', "x")},
		"a kind there is not":          {appendFrame(nil, 'Z')},
		"more than it may write":       {appendFrame(nil, 'R', strings.Repeat("x", maxSmallFrame))},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := talk(t, frames...); err == nil || isEnd(err) {
				t.Errorf("err = %v", err)
			}
		})
	}
}

func TestConfigNamesEveryProblem(t *testing.T) {
	_, err := New(Config{Threads: -1, MinProcs: 5, MaxProcs: 2, Queues: []string{"a b", "scheduler"}, StopTimeout: -1})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"threads", "processes at least", `"a b"`, "Done", "starts Ruby", "directory", "stop timeout"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing about %q in:\n%v", want, err)
		}
	}
	s, err := New(Config{Command: Command{Ruby: []string{"ruby"}, Dir: "."}, Queues: []string{"q", "scheduler"}, Done: func(Job, Result) {}})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.queuesOf(true), " "); got != "q scheduler" {
		t.Errorf("queues of the cron process = %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.cfg.Command.Ruby = []string{"/nonexistent"}
	if err := s.Run(ctx); err != nil {
		t.Errorf("Run = %v", err)
	}
	if err := s.Run(ctx); err == nil {
		t.Error("a second Run gave no error")
	}
}
