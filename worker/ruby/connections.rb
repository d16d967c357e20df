# frozen_string_literal: true

# Database connections are lent to this process by the worker: all carry the name they were lent under, whatever the application's
# configuration says (Mastodon's sets application_name to nothing), none is opened when what was lent may be somebody else's by now, and no
# more are open than were lent. A connection counts until the server has closed it: then, and not before, its backend has gone.

require "socket"

module Queueville
  module Connections
    NAME = "QUEUEVILLE_DATABASE_NAME"
    LEASE = "QUEUEVILLE_DATABASE_LEASE"
    PATIENCE = 10 # seconds that a thread waits for the worker to renew what it has lent, or for one of the others to be closed
    GIVEN_UP = "" # as a name: the preloaded parent has none any more
    NONE = [0, 0, 0].freeze
    LOOKS = 100 # at what the worker wrote, until it is whole

    # For PG::Connection's singleton class.
    module Opening
      %i[new connect open setdb setdblogin async_connect sync_connect].each do |name|
        define_method(name) do |*args, **options, &block|
          connection = Connections.opening { options.empty? ? super(*args, &nil) : super(*args, **options, &nil) }
          next connection unless block

          begin
            block.call(connection)
          ensure
            connection.finish unless connection.finished?
          end
        end
      end

      def parse_connect_args(*args)
        Connections.check
        "#{super} application_name='#{ENV.fetch(NAME)}'" # of two, libpq takes the last
      end
    end

    # For PG::Connection.
    module Changing
      %i[finish close].each do |name|
        define_method(name) { |*args| Connections.closing(self) { super(*args) } }
      end

      %i[reset async_reset sync_reset reset_start].each do |name|
        define_method(name) do |*args|
          Connections.check
          Connections.hang_up(self)
          super(*args)
        end
      end
    end

    @lock = Mutex.new
    @open = {}.compare_by_identity # connections
    @leaving = [] # sockets of closed ones
    @pending = 0 # that are being opened
    @pid = Process.pid

    class << self
      # Begins. An application without PostgreSQL needs none of it; one whose driver is not understood must not start.
      def lend
        return unless ENV[NAME]

        require "pg"
        PG::Connection.singleton_class.prepend(Opening)
        PG::Connection.prepend(Changing)
        given = PG::Connection.conninfo_parse(PG::Connection.parse_connect_args(application_name: "", host: "x"))
        return if given.any? { |option| option[:keyword] == "application_name" && option[:val] == ENV[NAME] }

        abort "queueville: this version of pg does not let connections be named (#{PG::VERSION})"
      rescue LoadError
        nil
      end

      # The preloaded parent opens none any more.
      def give_up
        ENV[NAME] = GIVEN_UP if ENV[NAME]
      end

      # Waits for a moment, then raises what a server that is away would raise.
      def check
        await { permitted? }
      end

      # Yields when one more may be open, and returns what that opens.
      def opening
        return yield if Thread.current[:queueville_opening] # one way to connect that leads to another

        await(method(:close_idle)) { room? }
        begin
          Thread.current[:queueville_opening] = true
          connection = yield
        rescue StandardError => e
          failed = e.respond_to?(:connection) ? e.connection : nil
          failed.finish if failed.respond_to?(:finished?) && !failed.finished? # or it would stay open until it is collected
          raise
        ensure
          Thread.current[:queueville_opening] = nil
          @lock.synchronize do
            @pending -= 1
            @open[connection] = true if connection
          end
        end
        return connection if permitted?

        connection.close # this process was frozen in the middle
        refuse
      end

      # Closes, by the block, and counts the connection until the server has closed it, too.
      def closing(connection)
        socket = twin(connection)
        yield
      ensure
        socket&.shutdown(Socket::SHUT_WR) rescue nil # our twin must not keep it open
        @lock.synchronize do
          @leaving << socket if @open.delete(connection) && socket
        end
      end

      # Before a connection is opened anew in its place: the server closes the old one.
      def hang_up(connection)
        socket = twin(connection) or return
        begin
          socket.shutdown(Socket::SHUT_WR)
        rescue SystemCallError
          nil # it is closed already
        end
        await { gone?(socket) }
      ensure
        socket&.close
      end

      def permitted?
        steady, wall, = lease
        now(Process::CLOCK_MONOTONIC) < steady && now(Process::CLOCK_REALTIME) < wall
      end

      def refuse
        raise PG::ConnectionBad, "the worker has no database connections to lend at present"
      end

      private

      # Until when connections may be opened, by both clocks in ms, and how many.
      def lease
        return NONE if ENV[NAME] == GIVEN_UP

        LOOKS.times do
          first, second, = File.read(ENV.fetch(LEASE)).lines # twice the same, or it is being written
          return first.split.map { |text| Integer(text, 10) } if first && first == second
        end
        NONE
      rescue SystemCallError
        NONE
      end

      # Waits until the block is true. +meanwhile+ is called when that takes longer than a moment.
      def await(meanwhile = nil)
        limit = now(Process::CLOCK_MONOTONIC) + (PATIENCE * 1000)
        pause = 0.002
        until yield
          refuse if ENV[NAME] == GIVEN_UP || now(Process::CLOCK_MONOTONIC) > limit
          sleep pause
          meanwhile&.call if pause >= 0.016
          pause = [pause * 2, 0.1].min
        end
      end

      # ActiveRecord's pools may be larger than what was lent, and there may be several, for a replica: connections that nobody uses make room
      # for one that is needed in another, or that a thread has asked for in the moment before another gave its own back.
      def close_idle
        return unless defined?(::ActiveRecord::Base)

        handler = ::ActiveRecord::Base.connection_handler
        pools = handler.connection_pool_list(:all)
        pools = handler.all_connection_pools if pools.empty? && handler.respond_to?(:all_connection_pools) # before 7.1
        pools.each { |pool| pool.flush(0) }
      rescue StandardError
        nil # it waits on
      end

      # Counts one more if there is room for it.
      def room?
        most = lease[2]
        @lock.synchronize do
          start_afresh if @pid != Process.pid
          @open.delete_if { |connection, _| connection.finished? }
          @leaving.delete_if { |socket| gone?(socket) && (socket.close || true) }
          return false if @open.size + @leaving.size + @pending >= most

          @pending += 1
        end
        true
      end

      # In a forked child nothing of the parent's is there.
      def start_afresh
        @leaving.each(&:close)
        @open.clear
        @leaving.clear
        @pending = 0
        @pid = Process.pid
      end

      # A second descriptor of a connection's socket, nil if it has none any more.
      def twin(connection)
        return if connection.finished?

        io = connection.socket_io.dup
        io.autoclose = false
        Socket.for_fd(io.fileno)
      rescue PG::Error, SystemCallError, IOError
        nil
      end

      # Has the server closed it?
      def gone?(socket)
        loop do
          case socket.read_nonblock(4096, exception: false)
          when nil then return true
          when :wait_readable then return false
          end
        end
      rescue SystemCallError, IOError
        true
      end

      def now(clock)
        Process.clock_gettime(clock, :millisecond)
      end
    end
  end
end
