# frozen_string_literal: true

# The recurring jobs of config/sidekiq.yml, with the keys and the behaviour of sidekiq-scheduler: only a process that was told to listen to an
# entry's queue pushes it, and of several that want to push the tick of the same second, one does. Random minutes are drawn by each process.
# Timings are every/interval (30s, 5m, 6h, 1d) and cron with numbers and stars.
module Cron
  PREFIX = "sidekiq-scheduler"
  UNITS = {"s" => 1, "m" => 60, "h" => 3600, "d" => 86_400}.freeze

  Entry = Struct.new(:name, :job, :period, :cron, :due, keyword_init: true) do
    def after(time)
      return time + period if period

      minute, hour = cron
      at = Time.at(time.to_i - (time.to_i % 60) + 60)
      at += 60 until (minute == "*" || at.min == minute.to_i) && (hour == "*" || at.hour == hour.to_i)
      at
    end
  end

  module_function

  def install(config)
    config.on(:startup) { start(config) }
    config.on(:quiet) { stop }
    config.on(:shutdown) { stop }
  end

  def start(config)
    listened = queues(config)
    @entries = entries.select { |entry| listened.include?(entry.job["queue"]) }
    return if @entries.empty?

    now = Time.now
    @entries.each { |entry| entry.due = entry.after(now) }
    @stop = false
    @thread = Thread.new { run }
  end

  def stop
    @stop = true
    @thread&.wakeup if @thread&.alive?
  end

  def queues(config)
    return config.capsules.values.flat_map(&:queues).uniq if config.respond_to?(:capsules)

    (Sidekiq.respond_to?(:options) ? Sidekiq.options[:queues] : Sidekiq[:queues]).uniq
  end

  def entries
    text = ERB.new(Rails.root.join("config/sidekiq.yml").read).result
    schedule = YAML.safe_load(text, permitted_classes: [Symbol]).dig(:scheduler, :schedule) || {}
    schedule.map do |name, spec|
      every = spec["every"] || spec["interval"]
      Entry.new(name: name, job: {"class" => spec["class"], "queue" => spec["queue"], "args" => []}, period: every && seconds(every), cron: spec["cron"]&.split)
    end
  end

  def seconds(text)
    text.scan(/(\d+(?:\.\d+)?)([smhd])/).sum { |n, unit| n.to_f * UNITS.fetch(unit) }
  end

  def run
    until @stop
      due = @entries.min_by(&:due)
      wait = due.due - Time.now
      if wait.positive?
        sleep [wait, 1].min # a sleep of bounded length, for a wake-up before it is lost
        next
      end
      begin
        tick(due)
      rescue StandardError => e
        Sidekiq.logger.error { "cron: #{due.name}: #{e.class}: #{e.message}" }
      end
      due.due = due.after(due.due)
    end
  end

  def tick(entry)
    state = RedisCall.sidekiq("HGET", "#{PREFIX}:states", entry.name)
    enabled = state.nil? || JSON.parse(state)["enabled"] != false
    RedisCall.sidekiq("HSET", "#{PREFIX}:last_times", entry.name, entry.due.to_s)
    RedisCall.sidekiq("HSET", "#{PREFIX}:next_times", entry.name, entry.after(entry.due).to_s)
    push_once(entry.name, entry.due, entry.job) if enabled
  end

  # Of all that want to push an entry's tick, one does.
  def push_once(name, due, job)
    key = "#{PREFIX}:pushed:#{name}"
    second = due.to_i
    added = RedisCall.sidekiq("ZADD", key, second, second)
    RedisCall.sidekiq("EXPIRE", key, 86_400)
    return unless added == 1

    # Through the class, for its options (retry, lock) belong to the job.
    Object.const_get(job["class"]).set("queue" => job["queue"]).perform_async
  end
end

# What others call of sidekiq-scheduler: its schedule, by name, and a tick.
module Sidekiq
  def self.schedule
    Cron.entries.to_h { |entry| [entry.name, entry.job] }
  end
end

module SidekiqScheduler
  class Scheduler
    def self.instance
      @instance ||= new
    end

    def idempotent_job_enqueue(name, due, job)
      Cron.push_once(name, due, job)
    end
  end
end
