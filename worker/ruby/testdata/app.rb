# frozen_string_literal: true

# The application of this package's tests. Jobs leave traces in Redis: "started" and "ended" lists of "<jid> <pid>".

require "sidekiq"

sleep Float(ENV["APP_BOOT"]) if ENV["APP_BOOT"]
require "a_gem_that_is_not_there" if ENV["APP_BROKEN"] == "gem"
raise "broken on purpose" if ENV["APP_BROKEN"] == "raise"

job = Sidekiq.const_defined?(:Job) ? Sidekiq::Job : Sidekiq::Worker

module Trace
  def trace(list)
    Sidekiq.redis { |c| c.call("RPUSH", list, "#{jid} #{Process.pid}") }
  end
end

Noop = Class.new do
  include job
  include Trace
  def perform(*)
    trace("ended")
  end
end

Bare = Class.new do
  include job
  def perform(*); end
end

Nap = Class.new do
  include job
  include Trace
  def perform(seconds)
    trace("started")
    sleep seconds
    trace("ended")
  end
end

Spin = Class.new do
  include job
  include Trace
  def perform(seconds)
    trace("started")
    finish = Process.clock_gettime(Process::CLOCK_THREAD_CPUTIME_ID) + seconds
    nil while Process.clock_gettime(Process::CLOCK_THREAD_CPUTIME_ID) < finish
    trace("ended")
  end
end

Fail = Class.new do
  include job
  def perform(*)
    raise ArgumentError, "failing on purpose"
  end
end

Die = Class.new do
  include job
  include Trace
  def perform(*)
    trace("started")
    Process.kill(:KILL, Process.pid)
    sleep
  end
end

Hog = Class.new do
  include job
  include Trace
  def perform(bytes)
    ($hoard ||= []) << ("x" * bytes)
    trace("ended")
  end
end

# Ends its thread with what neither Sidekiq nor the job's retry can handle.
Abandon = Class.new do
  include job
  include Trace
  def perform(*)
    trace("started")
    Thread.current.kill
  end
end

# Like a log level that Sidekiq 8 does not know: the application changes something after boot.
Shout = Class.new do
  include job
  include Trace
  def perform(text)
    puts text
    warn text.upcase
    trace("ended")
  end
end

# Tells what its process was told.
Tell = Class.new do
  include job
  include Trace
  def perform(*)
    queues = if Sidekiq.respond_to?(:default_configuration)
               Sidekiq.default_configuration.default_capsule.queues
             elsif Sidekiq.respond_to?(:[])
               Sidekiq[:queues]
             else
               Sidekiq.options[:queues]
             end
    text = [ENV["PGAPPNAME"], ENV["DB_POOL"], queues.uniq.join("+"), Process.getpgrp == Process.pid].join(" ")
    Sidekiq.redis { |c| c.call("RPUSH", "told", text) }
  end
end

# Spends time in SQL, as ActiveRecord would report it.
begin
  require "active_support"
  require "active_support/notifications"
  Query = Class.new do
    include job
    def perform(seconds)
      ActiveSupport::Notifications.instrument("sql.active_record", sql: "SELECT") { sleep seconds }
      ActiveSupport::Notifications.instrument("sql.active_record", sql: "SELECT", cached: true) { sleep seconds }
    end
  end
rescue LoadError
  nil # an application without Rails
end
