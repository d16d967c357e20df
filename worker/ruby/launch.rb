# frozen_string_literal: true

# Starts a stock Sidekiq whose jobs come from the worker, as the preloaded parent of such processes (QUEUEVILLE_MODE=zygote)
# or as one of them (plain). The arguments are Sidekiq's own.

require "English"
require_relative "line"
require_relative "fetch"
require_relative "watch"
require_relative "connections"
require_relative "cron"
require_relative "zygote"

module Queueville
  class << self
    def main
      $stdout.sync = true
      $stderr.sync = true
      Connections.lend
      require "sidekiq/cli"
      cli = Sidekiq::CLI.instance
      with_seed { cli.parse(ARGV.dup) }
      install
      if ENV["QUEUEVILLE_MODE"] == "zygote"
        exit!(Zygote::UNABLE) unless Zygote.possible?(cli)
        Zygote.new(cli).run
      else
        serve(cli, JSON.parse(ENV.fetch("QUEUEVILLE_QUEUES")), ENV["QUEUEVILLE_CRON"] == "1", boot: true)
      end
    end

    # Runs Sidekiq to its end.
    def serve(cli, queues, cron, boot:)
      @cron = cron
      self.queues = queues
      @watch = Watch.new
      @watch.start
      options = { boot_app: boot, warmup: boot }.select { |name, _| cli.method(:run).parameters.any? { |_, known| known == name } }
      cli.run(**options)
    end

    # Sets the fetcher now and again when the process starts, after the application's own configuration.
    def install
      Sidekiq.configure_server do |config|
        fetch_with_us(config)
        config.on(:startup) do
          fetch_with_us(config)
          measure_database
          Cron.remember if @cron
        end
        config.on(:quiet) { @watch&.tell("Q") }
      end
    end

    # An identity that was asked for while the parent booted is not a child's.
    def forget_identity
      [defined?(::Sidekiq::Util) && ::Sidekiq::Util, defined?(::Sidekiq::Component) && ::Sidekiq::Component].each do |mod|
        next unless mod

        (%i[@@identity @@process_nonce] & mod.class_variables(false)).each { |name| mod.remove_class_variable(name) }
      end
    end

    # A child's output goes to the worker by a connection of its own.
    def redirect_output
      line = Line.new("log")
      out = IO.for_fd(line.io.fileno, "w", autoclose: false)
      $stdout.reopen(out)
      $stderr.reopen(out)
      $stdout.sync = true
      $stderr.sync = true
      line.close
    end

    private

    def major
      Integer(Sidekiq::VERSION[/\A\d+/], 10)
    end

    def fetch_with_us(config)
      if major >= 7
        config[:fetch_class] = Fetch
      elsif config.respond_to?(:[]=)
        config[:fetch] = Fetch.new
      else
        Sidekiq.options[:fetch] = Fetch.new
      end
    end

    def queues=(names)
      if major >= 7
        Sidekiq.default_configuration.default_capsule.queues = names
      elsif Sidekiq.respond_to?(:[]=)
        Sidekiq[:queues] = names
      else
        Sidekiq.options[:queues] = names
      end
    end

    # sidekiq.yml may draw random minutes for its cron entries. Whoever leads should draw the same.
    def with_seed
      seed = ENV["QUEUEVILLE_CRON_SEED"]
      return yield unless seed

      srand(Integer(seed, 10))
      begin
        yield
      ensure
        srand
      end
    end
  end
end

Queueville.main
