# frozen_string_literal: true

# One thread per process: it notices that the worker is gone, answers where a thread is, and closes the connections of
# threads that ended.

module Queueville
  class Watch
    PERIOD = 1.0
    TRACE_LIMIT = 32_000 # bytes of a backtrace

    def initialize
      @line = Line.new("control", "sidekiq" => Sidekiq::VERSION, "ruby" => RUBY_VERSION)
      @lock = Mutex.new
    end

    def start
      thread = Thread.new { run }
      thread.name = "queueville"
      thread.priority = 3 # it must be heard among threads that compute
      thread.report_on_exception = true
    end

    def tell(type, body = "")
      @lock.synchronize { @line.send_frame(type, body) }
    rescue Gone
      nil
    end

    private

    def run
      loop do
        type, body = @line.receive(PERIOD)
        trace(body.unpack1("Q>")) if type == "T"
        Cron.look(self)
        WorkLine.sweep
      end
    rescue StandardError => e
      # Without the worker no outcome can be reported, and whoever adopts its jobs will run them again: what still runs
      # here must not write a retry beside that. So this ends at once, with whatever the jobs have started.
      begin
        warn "queueville: the worker is gone (#{e.class}: #{e.message}), so is process #{Process.pid}" unless e.is_a?(Gone)
      ensure
        Queueville.end_now
      end
    end

    def trace(number)
      lines = WorkLine.thread(number)&.backtrace || ["the thread has ended"]
      text = lines.join("\n").encode("UTF-8", invalid: :replace, undef: :replace).byteslice(0, TRACE_LIMIT).scrub
      tell("T", [number].pack("Q>") + text.b)
    end
  end

  def self.end_now
    Process.kill(:KILL, Process.getpgrp == Process.pid ? -Process.pid : Process.pid)
    sleep
  end
end
