package ruby

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/internal/pgtest"
)

// With fewer connections than threads a process starts all the same, and runs as many jobs at once as they suffice for. Further ones start only
// if they are worth it.
func TestRubySeats(t *testing.T) {
	t.Parallel()
	l := newLender(1)
	l.seats = 2
	r := newRig(t, func(c *Config) { c.Connections, c.Threads, c.MaxProcs = l, 10, 2 })
	r.await("a process", func() bool { return r.s.Load().Processes == 1 })
	if load := r.s.Load(); load.Threads != 2 {
		t.Errorf("load: %+v", load)
	}
	for i := range 6 {
		r.s.Submit([]Job{job("Nap", fmt.Sprint(i), "[0.5]")})
	}
	most := 0
	r.await("all have run", func() bool {
		most = max(most, r.s.Load().Running)
		return len(r.results("5")) > 0
	})
	if most != 2 {
		t.Errorf("%d jobs at once", most)
	}
	r.s.mu.Lock()
	first, further, cron := r.s.seats.least, r.s.leastSeats(false), r.s.leastSeats(true)
	r.s.mu.Unlock()
	if first != 2 || further != 2 || cron != 1 { // the last one that was asked for is the further one
		t.Errorf("at least %d, %d and %d seats", first, further, cron)
	}
}

// connectionsScript is a process that may have two connections, and wants more.
const connectionsScript = `
require "pg"
require "timeout"
$stdout.sync = true
include Queueville
Connections.lend
Queueville::Connections.send(:remove_const, :PATIENCE)
Queueville::Connections::PATIENCE = 0.5
url = ENV.fetch("URL")
counter = PG.connect(url)
count = -> { counter.exec_params("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", [ENV.fetch("QUEUEVILLE_DATABASE_NAME")]).getvalue(0, 0).to_i }
second = PG::Connection.open(url)
begin
  PG.connect(url)
  puts "a third one was opened"
rescue PG::ConnectionBad => e
  puts e.message
end
# Each that is closed makes room, and never is there one more.
most = 0
watch = Thread.new { loop { most = [most, count.call].max } }
30.times do
  second.close
  second = PG::Connection.new(url)
end
10.times { second.reset }
# One that is closed under a query counts until the server has noticed.
second.send_query("SELECT pg_sleep(0.3)")
started = Process.clock_gettime(Process::CLOCK_MONOTONIC)
second.close
third = PG.connect(url)
puts "it was replaced too soon" if Process.clock_gettime(Process::CLOCK_MONOTONIC) - started < 0.25
third.close
value = PG.connect(url) { |c| c.exec("SELECT 7").getvalue(0, 0) }
puts "block: #{value}"
begin
  PG.connect("postgres://nobody:wrong@127.0.0.1:1/x")
rescue PG::ConnectionBad
  puts "failed ones do not count"
end
fork do
  puts "child: #{PG.connect(url).exec("SELECT 8").getvalue(0, 0)}"
  exit!(0)
end
Process.wait
watch.kill
watch.join
puts "most: #{most}"
`

// A Ruby process has no more connections than were lent, to the backend: what it closes counts until the server has closed it.
func TestRubyConnectionLimit(t *testing.T) {
	t.Parallel()
	words := needRuby(t, "pg")
	out, err := withConnections(t, words, connectionsScript)
	want := "the worker has no database connections to lend at present\nblock: 7\nfailed ones do not count\nchild: 8\nmost: 2\n"
	if err != nil || out != want {
		t.Errorf("it said\n%s%v\nwant\n%s", out, err, want)
	}
}

// withConnections runs a script that was lent two connections.
func withConnections(t *testing.T, words []string, text string) (string, error) {
	t.Helper()
	dir := workDir(t)
	hook, err := os.ReadFile("connections.rb")
	if err != nil {
		t.Fatal(err)
	}
	lease, script := filepath.Join(dir, "lease"), filepath.Join(dir, "script.rb")
	for name, text := range map[string]string{
		filepath.Join(dir, "connections.rb"): string(hook), script: "require_relative 'connections'\n" + text,
		lease: strings.Repeat("9000000000000000 9000000000000000 2\n", 2),
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), words[0], append(words[1:], script)...) //nolint:gosec // the developer's words
	cmd.Env = append(os.Environ(), "URL="+pgtest.DB(t), "QUEUEVILLE_DATABASE_NAME=queueville/x/"+strings.ToLower(t.Name())+"/0123456789/ruby.1", "QUEUEVILLE_DATABASE_LEASE="+lease)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err //nolint:wrapcheck // the test's own
}

const idleScript = `
require "logger"
require "active_record"
Queueville::Connections.lend
url = ENV.fetch("URL")
ActiveRecord::Base.establish_connection(url)
class Other < ActiveRecord::Base
  self.abstract_class = true
end
Other.establish_connection(url)
both = Queue.new
2.times.map do
  Thread.new do
    ActiveRecord::Base.connection_pool.with_connection do |connection|
      connection.execute("SELECT 1")
      both << true
      sleep 0.01 until both.size == 2
    end
  end
end.each(&:join)
most = 0
open = -> { Queueville::Connections.instance_variable_get(:@open).size }
puts "open: #{open.call}"
3.times do |i|
  pool = [Other, ActiveRecord::Base][i % 2].connection_pool
  pool.with_connection { |connection| puts "#{i}: #{connection.select_value("SELECT #{i}")}"; most = [most, open.call].max }
end
puts "most: #{most}"
`

// Connections that lie idle in one pool make room for one that is needed in another.
func TestRubyIdleConnectionsMakeRoom(t *testing.T) {
	t.Parallel()
	words := needRuby(t, "pg", "active_record")
	out, err := withConnections(t, words, idleScript)
	if want := "open: 2\n0: 0\n1: 1\n2: 2\nmost: 2\n"; err != nil || out != want {
		t.Errorf("it said\n%s%v\nwant\n%s", out, err, want)
	}
}
