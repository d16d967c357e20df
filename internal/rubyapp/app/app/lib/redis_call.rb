# frozen_string_literal: true

# One command to Redis, whatever client this Sidekiq has: redis-rb up to 6.x, redis-client from 7.0.
module RedisCall
  # On Sidekiq's own pool: for what belongs to jobs.
  def self.sidekiq(*words)
    Sidekiq.redis { |connection| connection.call(*words) }
  end

  # On a pool of the application's own, as Mastodon's feeds and locks use. Made anew in a forked child.
  def self.base(*words)
    pool.with { |connection| connection.call(*words) }
  end

  LOCK = Mutex.new

  def self.pool
    return @pool if @pid == Process.pid

    LOCK.synchronize do
      next if @pid == Process.pid

      @pool = ConnectionPool.new(size: 100, timeout: 10) { connect }
      @pid = Process.pid
    end
    @pool
  end

  def self.connect
    url = ENV.fetch("REDIS_URL")
    defined?(::RedisClient) ? ::RedisClient.config(url: url).new_client : ::Redis.new(url: url)
  end
end
