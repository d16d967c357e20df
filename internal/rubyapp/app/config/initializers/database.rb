# frozen_string_literal: true

# Connections per process: DB_POOL, else as many as Sidekiq has threads, else 5.
module Database
  def self.pool
    return Integer(ENV["DB_POOL"]) if ENV["DB_POOL"]
    return 5 unless Sidekiq.server?

    Sidekiq.respond_to?(:default_configuration) ? Sidekiq.default_configuration.concurrency : Sidekiq.options[:concurrency]
  end
end

prepared = ENV.fetch("PREPARED_STATEMENTS", "true") == "true"
ActiveRecord::Base.establish_connection(url: ENV.fetch("DATABASE_URL"), pool: Database.pool, prepared_statements: prepared, checkout_timeout: 15, application_name: "") # as Mastodon's database.yml
ActiveRecord::Base.logger = nil
Rails.application.executor.to_complete { ActiveRecord::Base.connection_handler.clear_active_connections! }
