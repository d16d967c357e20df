# frozen_string_literal: true

Redis.silence_deprecations = true if defined?(Redis) && Redis.respond_to?(:silence_deprecations=)

if ENV["RUBYAPP_REAL_GEMS"] == "1"
  require "sidekiq-unique-jobs"
  require "sidekiq-scheduler"
  UNIQUE_CLIENT = SidekiqUniqueJobs::Middleware::Client
  UNIQUE_SERVER = SidekiqUniqueJobs::Middleware::Server
  SidekiqUniqueJobs.configure do |config|
    config.enabled = true
    config.reaper = :ruby
    config.reaper_count = 1000
    config.reaper_interval = 600
    config.reaper_timeout = 150
    config.lock_ttl = 50 * 24 * 3600
  end
else
  UNIQUE_CLIENT = UniqueJobs::Client
  UNIQUE_SERVER = UniqueJobs::Server
end

Sidekiq.configure_server do |config|
  config.redis = {url: ENV.fetch("REDIS_URL")}
  poll = ENV["RUBYAPP_POLL"] # mean seconds between two looks at the retry set, and most before the first
  if poll
    config.respond_to?(:[]=) ? config[:poll_interval_average] = Float(poll) : Sidekiq.options[:poll_interval_average] = Float(poll)
  end
  config.server_middleware do |chain|
    chain.add HostValidation
    chain.add UNIQUE_SERVER
    chain.add Record::Middleware
  end
  config.client_middleware { |chain| chain.add UNIQUE_CLIENT }
  if ENV["RUBYAPP_REAL_GEMS"] == "1"
    SidekiqUniqueJobs::Server.configure(config)
  else
    config.death_handlers << UniqueJobs::DEATH
    Cron.install(config)
  end
  config.logger.level = Logger.const_get(ENV.fetch("RAILS_LOG_LEVEL", "info").upcase)
end

Sidekiq.configure_client do |config|
  config.redis = {url: ENV.fetch("REDIS_URL")}
  config.client_middleware { |chain| chain.add UNIQUE_CLIENT }
  config.logger.level = Logger.const_get(ENV.fetch("RAILS_LOG_LEVEL", "info").upcase) # 7.0 and later tell of every connection
end

ActiveJob::Base.queue_adapter = :sidekiq
ActiveJob::Base.logger = Logger.new(IO::NULL)
