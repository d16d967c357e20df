# frozen_string_literal: true

# For the one process of the fleet that runs sidekiq-scheduler: finds ticks that the previous one did not push, reports
# them, and makes up those whose interval is over an hour. It only calls what sidekiq-scheduler itself calls for a tick.

module Queueville
  module Cron
    OLDEST = 86_400 # seconds: sidekiq-scheduler remembers pushed ticks for a day
    YOUNGEST = 2    # seconds: a tick that is due now is the scheduler's own
    LONG = 3_600    # seconds between ticks from which on a lost one is made up
    DELAY = 5       # seconds for the scheduler to load its schedule

    class << self
      # Before the scheduler writes its own: when each entry should have run next.
      def remember
        @due = hash("sidekiq-scheduler:next_times")
        @last = hash("sidekiq-scheduler:last_times")
        @after = Process.clock_gettime(Process::CLOCK_MONOTONIC) + DELAY
      rescue StandardError => e
        warn "queueville: cron: cannot read when the entries were due: #{e.message}"
      end

      def look(watch)
        return if !@after || Process.clock_gettime(Process::CLOCK_MONOTONIC) < @after

        @after = nil
        now = Time.now
        @due.each { |name, text| check(watch, name, time_of(text), time_of(@last[name]), now) }
      rescue StandardError => e
        warn "queueville: cron: #{e.class}: #{e.message}"
      end

      private

      def check(watch, name, due, last, now)
        return if due.nil? || now - due > OLDEST || now - due < YOUNGEST || entry(name).nil?
        return if pushed?(name, due) || !enabled?(name)

        interval = last && due > last ? due - last : 0
        made_up = interval > LONG && push(name, due)
        watch.tell("K", JSON.generate("entry" => name.to_s[0, 200], "due" => due.to_f, "made_up" => made_up))
      end

      def pushed?(name, due)
        Sidekiq.redis { |c| c.zcount("sidekiq-scheduler:pushed:#{name}", due.to_i, "+inf") }.to_i.positive?
      end

      # What the schedule says of an entry; nil if it is no longer in it.
      def entry(name)
        schedule = Sidekiq.schedule if Sidekiq.respond_to?(:schedule)
        schedule && (schedule[name] || schedule[name.to_sym])
      end

      def enabled?(name)
        text = Sidekiq.redis { |c| c.hget("sidekiq-scheduler:states", name) }
        text.nil? || JSON.parse(text)["enabled"] != false
      end

      # The scheduler's own way of a tick: it registers the time, so that nobody else pushes it, and pushes the job.
      def push(name, due)
        scheduler = scheduler_instance
        return false unless scheduler

        scheduler.idempotent_job_enqueue(name, due, entry(name))
        true
      rescue StandardError => e
        warn "queueville: cron: cannot make up #{name}: #{e.message}"
        false
      end

      def scheduler_instance
        list = [defined?(::SidekiqScheduler::Scheduler) && ::SidekiqScheduler::Scheduler,
                defined?(::Sidekiq::Scheduler) && ::Sidekiq::Scheduler]
        list.each do |known|
          next unless known

          found = known.respond_to?(:instance) ? known.instance : known
          return found if found.respond_to?(:idempotent_job_enqueue)
        end
        nil
      end

      def hash(key)
        Sidekiq.redis { |c| c.hgetall(key) }
      end

      # sidekiq-scheduler writes times as JSON strings.
      def time_of(text)
        return nil unless text

        require "time"
        value = begin
          JSON.parse(text, quirks_mode: true)
        rescue JSON::ParserError
          text
        end
        value.is_a?(Numeric) ? Time.at(value) : Time.parse(value.to_s)
      rescue ArgumentError
        nil
      end
    end
  end
end
