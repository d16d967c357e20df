# frozen_string_literal: true

# The preloaded parent: the application is loaded once, then every child starts from a copy that shares its memory.

require "etc"

module Queueville
  class Zygote
    # Exit status: this Sidekiq cannot be preloaded; the worker then starts plain processes.
    UNABLE = 75

    HOLES = [32_768, 16_384, 8192, 4096, 2048, 1024, 768, 512, 384, 320, 256, 224, 192, 176, 160, 144, 128, 112, 96, 80, 64, 48, 32, 24].freeze # bytes
    HOLES_BATCH = 1 << 17 # bytes
    HOLES_LIMIT = 64 << 20 # bytes in all
    PAGE = Etc.sysconf(Etc::SC_PAGESIZE)

    def self.possible?(cli)
      cli.respond_to?(:boot_application, true) && cli.method(:run).parameters.any? { |_, name| name == :boot_app } &&
        Process.respond_to?(:fork)
    end

    def initialize(cli)
      @cli = cli
      @children = 0
    end

    def run
      @line = Line.new("zygote", "sidekiq" => Sidekiq::VERSION, "ruby" => RUBY_VERSION)
      @cli.send(:boot_application)
      Queueville.measure_database
      settle
      disconnect
      Connections.give_up
      @wake, wake = IO.pipe
      trap("CLD") { wake.write_nonblock(".", exception: false) }
      %w[INT TERM HUP TSTP TTIN USR1 USR2].each { |signal| trap(signal, "IGNORE") }
      @line.send_frame("P")
      loop { turn }
    rescue Gone
      exit!(0) # the children notice by themselves
    end

    private

    # As much as possible of what was loaded should stay shared: objects are made old, so that small collections leave them alone, and put
    # together, so that new ones get pages of their own. The same for memory outside Ruby's heap.
    def settle
      compact
      fill_holes
      3.times { GC.start } # what fills the holes is made old as well
    end

    def compact
      return Process.warmup if Process.respond_to?(:warmup)

      4.times { GC.start }
      GC.compact if GC.respond_to?(:compact)
    rescue NotImplementedError
      nil # a platform without compaction
    end

    # After a boot the allocator has thousands of free pieces between what stays. Children would put what their jobs need into those, and each
    # would cost a copy of a page that was shared. So they are used up here, by large numbers: of those, every Ruby keeps the digits outside
    # its own heap. When the process grows with them, there are no more holes of that size.
    def fill_holes
      @filling = [] # for as long as the process lives
      left = HOLES_LIMIT
      HOLES.each do |size|
        batch = [HOLES_BATCH / size, 4].max
        until left < 0
          before = resident or return
          batch.times { @filling << (1 << ((size * 8) - 1)) }
          left -= batch * size
          break if resident - before > batch * size / 2
        end
      end
    end

    # Bytes of memory that the process has; nil where that cannot be read.
    def resident
      Integer(File.read("/proc/self/statm").split[1], 10) * PAGE
    rescue SystemCallError
      nil
    end

    def turn
      ready, = IO.select([@line.io, @wake])
      if ready.include?(@wake)
        @wake.read_nonblock(CHUNK, exception: false)
        reap
      end
      return unless ready.include?(@line.io)

      while (type, body = @line.receive(0))
        spawn_child(JSON.parse(body)) if type == "F"
      end
    end

    def reap
      while (pid, status = Process.wait2(-1, Process::WNOHANG))
        @line.send_frame("X", JSON.generate("pid" => pid, "exit" => status.exitstatus || -1, "signal" => status.termsig || 0))
      end
    rescue Errno::ECHILD
      nil # none left
    end

    def spawn_child(order)
      disconnect
      pid = fork { child(order) }
      @line.send_frame("F", JSON.generate("token" => order["token"], "pid" => pid))
    rescue Errno::EAGAIN, Errno::ENOMEM => e
      @line.send_frame("N", JSON.generate("token" => order["token"], "error" => e.message))
    end

    # No connection may be shared with a child. The redis gem up to 4 refuses to use an inherited one, so those are closed
    # here; redis-client and ActiveRecord look at the process id and open their own.
    def disconnect
      if defined?(::Redis) && ::Redis.is_a?(Class)
        ObjectSpace.each_object(::Redis) do |redis|
          redis.close
        rescue StandardError
          nil # it was not open
        end
      end
      return unless defined?(::ActiveRecord::Base)

      # Of every role and handler, a replica's too: which method reaches all of them differs from version to version.
      ObjectSpace.each_object(::ActiveRecord::ConnectionAdapters::ConnectionPool, &:disconnect!)
    rescue StandardError => e
      warn "queueville: database connections of the parent: #{e.message}"
    end

    def child(order)
      Process.setpgid(0, 0)
      @line.close
      @wake.close
      (%w[INT TERM HUP TSTP TTIN USR1 USR2] << "CLD").each { |signal| trap(signal, "DEFAULT") }
      order["env"].each { |name, value| ENV[name] = value }
      ENV["QUEUEVILLE_TOKEN"] = order["token"]
      ENV["RUBY_DISABLE_WARMUP"] = "1" # it would undo the sharing
      Queueville.redirect_output
      Queueville.forget_identity
      WorkLine.reset
      Queueville.serve(@cli, order["queues"], order["cron"], boot: false)
    end
  end
end
