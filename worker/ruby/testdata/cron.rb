# frozen_string_literal: true

# Stands in for sidekiq-scheduler: what Queueville reads of it in Redis, and what it calls for a tick.

require_relative "app"

module SidekiqScheduler
  class Scheduler
    def self.instance
      @instance ||= new
    end

    def idempotent_job_enqueue(name, time, entry)
      first = Sidekiq.redis { |c| c.call("ZADD", "sidekiq-scheduler:pushed:#{name}", time.to_i, time.to_i) }
      return unless first == 1 || first == true

      Sidekiq::Client.push("class" => entry["class"], "queue" => entry["queue"], "args" => [])
    end
  end
end

module Sidekiq
  def self.schedule
    %w[daily often off].to_h { |name| [name, { "class" => "Noop", "queue" => "scheduler" }] }
  end
end
