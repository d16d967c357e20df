# frozen_string_literal: true

# The fetcher that stock Sidekiq is given instead of its own: every idle thread asks the worker for its next job over a
# connection of its own, and says there that it is done. Acknowledging means that Sidekiq has finished with the job
# either way: it succeeded, or its failure is in the retry or dead set.

module Queueville
  # What Sidekiq calls a unit of work.
  class Work
    attr_reader :job, :queue_name

    def initialize(line, number, queue_name, job)
      @line = line
      @number = number
      @queue_name = queue_name
      @job = job
      Queueville.db_reset
      @wall = Process.clock_gettime(Process::CLOCK_MONOTONIC, :microsecond)
      @cpu = Process.clock_gettime(Process::CLOCK_THREAD_CPUTIME_ID, :microsecond)
    end

    def queue
      "queue:#{@queue_name}"
    end

    # Called on the thread that ran the job. While an exception passes through, $! is it: the job has failed.
    def acknowledge
      cpu = Process.clock_gettime(Process::CLOCK_THREAD_CPUTIME_ID, :microsecond) - @cpu
      wall = Process.clock_gettime(Process::CLOCK_MONOTONIC, :microsecond) - @wall
      @line.done(@number, wall, cpu < 0 ? 0 : cpu, Queueville.db_microseconds, $ERROR_INFO ? 1 : 0)
    end

    # Called when the process became quiet between asking and getting.
    def requeue
      @line.give_back(@number)
    end
  end

  # A thread's connection.
  class WorkLine < Line
    WAIT = 30.0 # seconds until a thread looks whether its process is stopping: usually it is told. Looks of idle threads interrupt those that compute
    PAUSE = 2.0 # seconds before a thread tries again whose line was cut

    # The registry of which thread has which line, so that those of threads that ended can be closed.
    @lines = {}
    @lock = Mutex.new
    @count = 0

    class << self
      def of_current_thread
        Thread.current[:queueville_line] ||= @lock.synchronize do
          @count += 1
          line = new("work", "line" => @count, "thread" => system_thread)
          @lines[@count] = [Thread.current, line]
          line
        end
      end

      # Closes the lines of threads that ended. A job that was sent and never read goes back untouched.
      def sweep
        ended = @lock.synchronize do
          gone, @lines = @lines.partition { |_, (thread, _)| !thread.alive? }.map(&:to_h)
          gone
        end
        ended.each_value { |_, line| line.leave }
      end

      # The number of the current thread as the system counts them; 0 where it does not say.
      def system_thread
        File.basename(File.readlink("/proc/thread-self")).to_i
      rescue SystemCallError
        0
      end

      # The current thread's line was cut: it gets another one.
      def forget(line)
        Thread.current[:queueville_line] = nil
        @lock.synchronize { @lines.delete_if { |_, (_, known)| known.equal?(line) } }
        line.close
      end

      def thread(number)
        @lock.synchronize { @lines[number]&.first }
      end

      # In a forked child nothing of the parent's is there.
      def reset
        @lines = {}
        @count = 0
      end
    end

    # The next job, or nil. The request stays asked while nobody answers.
    def fetch
      unless @asked
        send_frame("R")
        @asked = true
      end
      type, body = receive(WAIT)
      return nil unless type

      @asked = false
      return nil unless type == "J"

      number, length = body.unpack("Q>n")
      queue = body.byteslice(10, length).force_encoding(Encoding::UTF_8)
      Work.new(self, number, queue, body.byteslice((10 + length)..).force_encoding(Encoding::UTF_8))
    rescue Gone
      WorkLine.forget(self)
      sleep PAUSE # if the worker is gone the watcher ends this process meanwhile
      nil
    end

    # After a job that succeeded the thread asks for the next one, so that is said at once: the same thread, warm and with its database
    # connection, goes on with it. A failure ends the thread, and Sidekiq starts another in its place.
    def done(number, wall, cpu, database, failed)
      @asked = failed.zero?
      send_frame(@asked ? "E" : "D", [number, wall, cpu, database, failed].pack("Q>Q>Q>Q>C"))
    rescue Gone
      nil # the watcher ends this process
    end

    def give_back(number)
      send_frame("B", [number].pack("Q>"))
    rescue Gone
      nil
    end

    def leave
      if @asked && (frame = receive(0)) && frame[0] == "J"
        give_back(frame[1].unpack1("Q>"))
      end
    rescue Gone
      nil
    ensure
      close
    end
  end

  # The fetch strategy: 6.x is given an instance, 7.0 and later the class, which is constructed with its capsule.
  class Fetch
    def initialize(_config = nil); end

    def retrieve_work
      WorkLine.of_current_thread.fetch
    rescue Gone
      sleep WorkLine::PAUSE
      nil
    end

    # At a hard shutdown Sidekiq would put back what still runs and then kill the threads. The worker does better: it
    # gives a job back when this process has ended, unless it was acknowledged after all.
    def bulk_requeue(*)
      nil
    end
  end

  class << self
    def db_reset
      Thread.current.thread_variable_set(:queueville_db, 0.0) if @db
    end

    def db_microseconds
      @db ? (Thread.current.thread_variable_get(:queueville_db) || 0.0).round : 0
    end

    # Adds up the time of SQL statements per thread, if the application has ActiveSupport's notifications.
    def measure_database
      return unless !@db && defined?(::ActiveSupport::Notifications)

      note = ::ActiveSupport::Notifications
      subscribe = note.respond_to?(:monotonic_subscribe) ? :monotonic_subscribe : :subscribe
      note.public_send(subscribe, "sql.active_record") do |_name, started, finished, _id, payload|
        unless payload[:cached]
          thread = Thread.current
          before = thread.thread_variable_get(:queueville_db) || 0.0
          thread.thread_variable_set(:queueville_db, before + ((finished - started) * 1e6))
        end
      end
      @db = true
    end
  end
end
