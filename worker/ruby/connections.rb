# frozen_string_literal: true

# Database connections are lent to this process by the worker: all carry the name they were lent under, whatever the application's
# configuration says (Mastodon's sets application_name to nothing), and none is opened when what was lent may be somebody else's by now.

module Queueville
  module Connections
    NAME = "QUEUEVILLE_DATABASE_NAME"
    LEASE = "QUEUEVILLE_DATABASE_LEASE"
    PATIENCE = 10 # seconds that a thread waits for the worker to renew what it has lent
    GIVEN_UP = "" # as a name: the preloaded parent has none any more

    # For PG::Connection's singleton class.
    module Opening
      def new(*args, **options)
        connection = options.empty? ? super(*args) : super
        return connection if Connections.permitted?

        connection.close if connection.respond_to?(:close) # this process was frozen in the middle
        Connections.refuse
      end

      def parse_connect_args(*args)
        Connections.check
        "#{super} application_name='#{ENV.fetch(NAME)}'" # of two, libpq takes the last
      end
    end

    # For PG::Connection.
    module Reopening
      %i[reset async_reset sync_reset reset_start].each do |name|
        define_method(name) do |*args|
          Connections.check
          super(*args)
        end
      end
    end

    class << self
      # Begins. An application without PostgreSQL needs none of it; one whose driver is not understood must not start.
      def lend
        return unless ENV[NAME]

        require "pg"
        PG::Connection.singleton_class.prepend(Opening)
        PG::Connection.prepend(Reopening)
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
        limit = now(Process::CLOCK_MONOTONIC) + (PATIENCE * 1000)
        until permitted?
          refuse if ENV[NAME] == GIVEN_UP || now(Process::CLOCK_MONOTONIC) > limit
          sleep 0.1
        end
      end

      def permitted?
        return false if ENV[NAME] == GIVEN_UP

        steady, wall = File.read(ENV.fetch(LEASE)).split.map { |text| Integer(text, 10) }
        now(Process::CLOCK_MONOTONIC) < steady && now(Process::CLOCK_REALTIME) < wall
      rescue SystemCallError
        false
      end

      def refuse
        raise PG::ConnectionBad, "the worker has no database connections to lend at present"
      end

      private

      def now(clock)
        Process.clock_gettime(clock, :millisecond)
      end
    end
  end
end
