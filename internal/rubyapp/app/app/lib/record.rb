# frozen_string_literal: true

# What ran, in Redis, so that tests can prove that every job ran and none twice:
#
#   ran:started         list of JSON {class, jid, pid, at}: before the job's code
#   ran:<class>         list of JSON {class, jid, pid, tid, queue, start, end, error}: after it, failed or not. Not when the process was killed
#   ran:count           executions that ended
#   ran:failed          those of them that raised
#
# RUBYAPP_RECORD=count keeps only the counters (for measurements), and counts what the clock enqueues as ran:ticks; none keeps nothing. Times are Unix seconds.
module Record
  MODE = ENV.fetch("RUBYAPP_RECORD", "all")

  class Middleware
    def call(_instance, job, queue)
      return yield if MODE == "none"

      name = job["wrapped"] || job["class"]
      start = Time.now.to_f
      all = MODE == "all"
      RedisCall.base("RPUSH", "ran:started", JSON.generate("class" => name, "jid" => job["jid"], "pid" => Process.pid, "at" => start)) if all
      begin
        result = yield
        finished = true
        result
      rescue Exception => e # also what stops a job: Sidekiq's shutdown, an interrupted iteration
        error = e.class.name
        raise
      ensure
        # Neither finished nor raised: the thread was killed.
        error ||= "killed" unless finished
        if all
          RedisCall.base("RPUSH", "ran:#{name}", JSON.generate(
            "class" => name, "jid" => job["jid"], "pid" => Process.pid, "tid" => Thread.current.object_id.to_s(36), "queue" => queue,
            "start" => start, "end" => Time.now.to_f, "error" => error
          ))
        end
        RedisCall.base("INCR", "ran:failed") if error
        RedisCall.base("INCR", MODE == "count" && queue == "scheduler" ? "ran:ticks" : "ran:count")
      end
    end
  end

  # More that a job wants to tell.
  def self.note(key, value)
    RedisCall.base("RPUSH", "note:#{key}", value.is_a?(String) ? value : JSON.generate(value)) unless MODE == "none"
  end
end
