package activitypub

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/queueville/queueville/internal/synthca"
)

// receiverEnv makes the test binary be a receiver instead of testing: another process, so that its CPU and memory are not ours. Its value is
// "hosts delay-milliseconds h2|h1|plain".
const receiverEnv = "ACTIVITYPUB_BENCH_RECEIVER"

// benchReceiver listens until its standard input ends. It prints the port and the CA.
func benchReceiver(spec string) error {
	var hosts, delay int
	var proto string
	if _, err := fmt.Sscan(spec, &hosts, &delay, &proto); err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ca, err := synthca.New()
	if err != nil {
		return err
	}
	var certs sync.Map
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if c, ok := certs.Load(hello.ServerName); ok {
			return c.(*tls.Certificate), nil
		}
		c, err := ca.LeafFor(hello.ServerName)
		certs.Store(hello.ServerName, &c)
		return &c, err
	}}
	server := &http.Server{
		TLSConfig: config, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			time.Sleep(time.Duration(delay) * time.Millisecond)
			w.WriteHeader(http.StatusAccepted)
		}),
	}
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(proto == "h2")
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	fmt.Println(port, base64.StdEncoding.EncodeToString(ca.PEM()))
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	if proto == "plain" {
		return server.Serve(listener)
	}
	return server.ServeTLS(listener, "", "")
}

// startBenchReceiver starts one and returns its port and roots.
func startBenchReceiver(tb testing.TB, spec string) (string, *x509.CertPool) {
	tb.Helper()
	self, err := os.Executable()
	must(tb, err)
	cmd := exec.CommandContext(tb.Context(), self)
	cmd.Env = append(os.Environ(), receiverEnv+"="+spec)
	in, err := cmd.StdinPipe()
	must(tb, err)
	out, err := cmd.StdoutPipe()
	must(tb, err)
	cmd.Stderr = os.Stderr
	must(tb, cmd.Start())
	tb.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	must(tb, err)
	port, encoded, _ := strings.Cut(strings.TrimSpace(line), " ")
	pem, err := base64.StdEncoding.DecodeString(encoded)
	must(tb, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return port, pool
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// bareSignature is the CPU time of one signature, measured in this run.
func bareSignature(tb testing.TB, signer Signer) time.Duration {
	tb.Helper()
	key, err := signer.NewKey(testKeys()[0])
	must(tb, err)
	digest := sha256.Sum256([]byte("text"))
	const n = 1000
	begun := cpuTime()
	for range n {
		if _, err := key.SignSHA256(digest); err != nil {
			tb.Fatal(err)
		}
	}
	return (cpuTime() - begun) / n
}

// BenchmarkDeliver: signed deliveries of 3 kB to a receiver in another process over kept connections, eight at once to eight hosts, tracker
// and all. It reports CPU per delivery and its ratio to a bare signature in the same run.
func BenchmarkDeliver(b *testing.B) {
	fast, _ := NewSigner()
	for _, proto := range []string{"h1", "h2", "plain"} {
		for label, signer := range map[string]Signer{"openssl": fast, "go": GoSigner{}} {
			b.Run("proto="+proto+"/signer="+label, func(b *testing.B) { benchDeliver(b, proto, signer) })
		}
	}
}

func benchDeliver(b *testing.B, proto string, signer Signer) {
	b.Helper()
	port, roots := startBenchReceiver(b, "8 0 "+proto)
	m := setup(b, "4.7.0", func(c *Config) { c.RootCAs, c.Signer = roots, signer })
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = m.Run(ctx) }()
	defer func() { cancel(); <-done }()
	scheme := "https://"
	if proto == "plain" {
		scheme = "http://"
	}
	body := `{"@context":["https://www.w3.org/ns/activitystreams"],"content":"` + strings.Repeat(`<p>word</p>`, 250) + `"}`
	quoted, err := json.Marshal(body)
	must(b, err)
	args := make([]string, 8)
	for i := range args {
		name := "host" + strconv.Itoa(i) + ".test"
		m.names.set(name, "127.0.0.1")
		args[i] = fmt.Sprintf(`[%s,%d,"%s%s:%s/inbox",{}]`, quoted, m.data.Accounts[i%4].ID, scheme, name, port)
	}
	one := func(i int) {
		dest, err := Destination(args[i])
		must(b, err)
		job, err := ParseArgs(args[i])
		must(b, err)
		m.Hosts().Acquire(dest, time.Now())
		defer func() { m.Hosts().Release(dest, time.Now()) }()
		if got := m.Deliver(ctx, job); got.Outcome != Delivered {
			b.Errorf("Deliver = %+v", got)
		}
	}
	for i := range args {
		one(i)
	}
	bare := bareSignature(b, signer)
	b.ReportAllocs()
	b.ResetTimer()
	begun := cpuTime()
	var next atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				one(w)
			}
		})
	}
	wg.Wait()
	per := (cpuTime() - begun) / time.Duration(b.N)
	b.ReportMetric(float64(per.Microseconds()), "cpu-µs/op")
	b.ReportMetric(float64(bare.Microseconds()), "sig-cpu-µs")
	b.ReportMetric(float64(per)/float64(bare), "ratio")
}

// TestMemory: a thousand deliveries in flight. It is slow and takes both CPUs for a while, so it runs only when asked for.
func TestMemory(t *testing.T) {
	hosts, err := strconv.Atoi(os.Getenv("ACTIVITYPUB_MEMORY_HOSTS"))
	if err != nil {
		t.Skip("set ACTIVITYPUB_MEMORY_HOSTS=100 or 1000")
	}
	port, roots := startBenchReceiver(t, fmt.Sprintf("%d 200 h1", hosts))
	m := setup(t, "4.7.0", func(c *Config) { c.RootCAs = roots })
	const inFlight, total = 1000, 10_000
	for i := range hosts {
		m.names.set(fmt.Sprintf("host%d.test", i), "127.0.0.1")
	}
	body := strings.Repeat("x", 3000)
	var next atomic.Int64
	var failed atomic.Int64
	var wg sync.WaitGroup
	for range inFlight {
		wg.Go(func() {
			for {
				n := next.Add(1)
				if n > total {
					return
				}
				job := Delivery{Body: strings.Clone(body), AccountID: m.data.Accounts[n%8].ID, InboxURL: fmt.Sprintf("https://host%d.test:%s/inbox", n%int64(hosts), port)}
				if got := m.Deliver(t.Context(), job); got.Outcome != Delivered {
					failed.Add(1)
				}
			}
		})
	}
	if path := os.Getenv("ACTIVITYPUB_HEAP_PROFILE"); path != "" {
		time.Sleep(3 * time.Second)
		f, err := os.Create(path)
		must(t, err)
		runtime.GC()
		must(t, pprof.WriteHeapProfile(f))
		must(t, f.Close())
	}
	wg.Wait()
	peak := peakRSS(t)
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	t.Logf("%d hosts, %d in flight: peak resident %d MiB (Go heap in use %d MiB, stacks %d MiB), %d failed",
		hosts, inFlight, peak>>20, mem.HeapInuse>>20, mem.StackInuse>>20, failed.Load())
	limit := 130
	if hosts > 100 {
		limit = 170
	}
	if peak>>20 > int64(limit) || failed.Load() > 0 {
		t.Errorf("want under %d MiB and no failure", limit)
	}
}

func peakRSS(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.Fields(kb)[0], 10, 64)
			must(t, err)
			return n << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
