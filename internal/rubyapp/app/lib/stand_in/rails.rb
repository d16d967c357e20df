# frozen_string_literal: true

# As much of Rails as Sidekiq looks for: engines with initializers, an application with executor and reloader, a logger. Jobs therefore run
# inside a reloader, which gives their database connection back when they end, as on a real server.
require "logger" # before Active Support: concurrent-ruby from 1.3.5 no longer loads it
require "active_support"
require "active_support/core_ext"
require "active_support/executor"
require "active_support/reloader"
require "active_support/backtrace_cleaner"
require "pathname"

module Rails
  module VERSION
    MAJOR = ActiveSupport::VERSION::MAJOR
    MINOR = ActiveSupport::VERSION::MINOR
    STRING = ActiveSupport::VERSION::STRING
  end

  # Blocks that engines want run at certain points of the boot.
  class Hooks
    def initialize
      @blocks = Hash.new { |hash, point| hash[point] = [] }
    end

    %i[before_configuration before_initialize after_initialize to_prepare].each do |point|
      define_method(point) { |&block| @blocks[point] << block }
    end

    def run(point)
      @blocks[point].each { |block| block.arity.zero? ? block.call : block.call(Rails.application) }
    end
  end

  class Engine
    class << self
      def config
        Rails.hooks
      end

      def initializer(name, **_order, &block)
        Rails.initializers << [name, block]
      end
    end
  end

  Railtie = Engine

  class Application
    attr_reader :executor, :reloader

    def initialize
      @executor = Class.new(ActiveSupport::Executor)
      @reloader = Class.new(ActiveSupport::Reloader)
      @reloader.executor = @executor
      @reloader.check = -> { false }
    end

    def config
      Rails.hooks
    end

    def initialize!
      Rails.hooks.run(:before_configuration)
      Rails.hooks.run(:before_initialize)
      Rails.initializers.each { |_name, block| block.arity.zero? ? block.call : block.call(self) }
      yield if block_given?
      Rails.hooks.run(:after_initialize)
    end
  end

  class << self
    attr_accessor :root, :logger

    def application
      @application ||= Application.new
    end

    def hooks
      @hooks ||= Hooks.new
    end

    def initializers
      @initializers ||= []
    end

    def env
      @env ||= ActiveSupport::StringInquirer.new(ENV["RAILS_ENV"] || "development")
    end

    def version
      VERSION::STRING
    end

    def backtrace_cleaner
      @backtrace_cleaner ||= ActiveSupport::BacktraceCleaner.new
    end
  end
end
