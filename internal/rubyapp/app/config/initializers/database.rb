# frozen_string_literal: true

# Connections per process: DB_POOL, else as many as Sidekiq has threads, else 5.
module Database
  def self.pool
    return Integer(ENV["DB_POOL"]) if ENV["DB_POOL"]
    return 5 unless Sidekiq.server?

    Sidekiq.respond_to?(:default_configuration) ? Sidekiq.default_configuration.concurrency : Sidekiq.options[:concurrency]
  end

  # As Mastodon's database.yml.
  def self.primary
    {url: ENV.fetch("DATABASE_URL"), adapter: "postgresql", pool: pool, prepared_statements: ENV.fetch("PREPARED_STATEMENTS", "true") == "true", checkout_timeout: 15, application_name: ""}
  end

  # What is not said of the replica is as for the primary; nil without one.
  def self.replica
    return unless replica?

    given = {url: ENV["REPLICA_DATABASE_URL"], host: ENV["REPLICA_DB_HOST"], port: ENV["REPLICA_DB_PORT"], database: ENV["REPLICA_DB_NAME"],
             username: ENV["REPLICA_DB_USER"], password: ENV["REPLICA_DB_PASS"]}.compact
    like = URI(ENV.fetch("DATABASE_URL"))
    same = {host: like.host, port: like.port, username: like.user, password: like.password, sslmode: "disable"}
    primary.except(:url).merge(given[:url] ? {} : same, given, replica: true)
  end

  def self.replica?
    [ENV["REPLICA_DATABASE_URL"], ENV["REPLICA_DB_NAME"]].any?(&:present?)
  end

  def self.connect
    case ActiveRecord::VERSION::STRING
    when /\A6\.1/ then ActiveRecord::Base.legacy_connection_handling = false
    when /\A7\.0/ then ActiveRecord.legacy_connection_handling = false
    end
    return ActiveRecord::Base.establish_connection(primary) unless replica?

    ActiveRecord::Base.configurations = {Rails.env.to_s => {"primary" => primary.stringify_keys, "replica" => replica.stringify_keys}}
    ActiveRecord::Base.connects_to(database: {writing: :primary, reading: :replica})
  end

  # As Mastodon's DatabaseHelper.
  def self.with_read_replica(&block)
    return yield unless replica?

    ActiveRecord::Base.connected_to(role: :reading, prevent_writes: true, &block)
  end
end

Database.connect
ActiveRecord::Base.logger = nil
Rails.application.executor.to_complete do
  handler = ActiveRecord::Base.connection_handler
  pools = handler.respond_to?(:all_connection_pools) && ActiveRecord::VERSION::STRING < "7.1" ? handler.all_connection_pools : handler.connection_pool_list(:all)
  pools.each(&:release_connection)
end
