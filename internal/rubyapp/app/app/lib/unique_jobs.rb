# frozen_string_literal: true

require "digest"

# Unique jobs with the Redis keys and the behaviour of sidekiq-unique-jobs, as far as other programs see them: locks are taken when a job is
# pushed, and given back by the server's middleware. Not here: the reaper, queue-wide API hooks, other locks than the two that Mastodon uses.
#
# RUBYAPP_UNIQUE=always|success says when an until_executed lock is given back: after every attempt (7.1 and 8.0.x, to Sidekiq 8.0)
# or only after success and death (8.1).
module UniqueJobs
  PREFIX = "uniquejobs"
  TTL = 50 * 24 * 3600
  RELEASE = ENV["RUBYAPP_UNIQUE"] || (Sidekiq::VERSION.to_i >= 8 ? "success" : "always")

  # KEYS: digest, digest:LOCKED, digest:INFO, uniquejobs:digests. ARGV: jid, now or the due time (s), ttl (ms).
  # Returns 1 for a lock that is now, or was already, this job's; 0 for one of another job.
  TAKE = <<~LUA
    if redis.call("HLEN", KEYS[2]) > 0 then return redis.call("HEXISTS", KEYS[2], ARGV[1]) end
    redis.call("SET", KEYS[1], ARGV[1])
    redis.call("ZADD", KEYS[4], ARGV[2], KEYS[1])
    redis.call("HSET", KEYS[2], ARGV[1], ARGV[2])
    for i = 1, 3 do redis.call("PEXPIRE", KEYS[i], ARGV[3]) end
    return 1
  LUA

  # KEYS: digest, digest:QUEUED, digest:PRIMED, digest:LOCKED, digest:INFO, uniquejobs:digests, uniquejobs:changelog.
  # ARGV: jid, now (s), the changelog's entry. Returns the jid, or false when the lock is another job's.
  GIVE = <<~LUA
    if redis.call("HEXISTS", KEYS[4], ARGV[1]) == 0 and
      redis.call("LLEN", KEYS[2]) + redis.call("LLEN", KEYS[3]) + redis.call("HLEN", KEYS[4]) > 0 then return false end
    redis.call("HDEL", KEYS[4], ARGV[1])
    redis.call("UNLINK", KEYS[1], KEYS[3], KEYS[4], KEYS[5])
    redis.call("ZREM", KEYS[6], KEYS[1])
    redis.call("LPUSH", KEYS[2], "1")
    redis.call("PEXPIRE", KEYS[2], 5000)
    redis.call("ZADD", KEYS[7], ARGV[2], ARGV[3])
    redis.call("ZREMRANGEBYRANK", KEYS[7], 0, -1001)
    redis.call("PUBLISH", KEYS[7], ARGV[3])
    return ARGV[1]
  LUA

  module_function

  def digest(job)
    pairs = [["class", job["class"]], ["lock_args", job["lock_args"]], ["queue", job["queue"]]]
    "#{PREFIX}:#{Digest::MD5.hexdigest(JSON.generate(pairs))}"
  end

  def take(job)
    d = job["lock_digest"]
    score = (job["at"] || Time.now).to_f
    RedisCall.sidekiq("EVAL", TAKE, 4, d, "#{d}:LOCKED", "#{d}:INFO", "#{PREFIX}:digests", job["jid"], score, job["lock_ttl"].to_i * 1000) == 1
  end

  def give(job)
    d = job["lock_digest"]
    now = Time.now.to_f
    entry = JSON.generate("digest" => d, "job_id" => job["jid"], "script" => "unlock.lua", "message" => "Unlocked", "time" => now)
    RedisCall.sidekiq("EVAL", GIVE, 7, d, "#{d}:QUEUED", "#{d}:PRIMED", "#{d}:LOCKED", "#{d}:INFO", "#{PREFIX}:digests", "#{PREFIX}:changelog",
                      job["jid"], now, entry)
  end

  def held?(job)
    RedisCall.sidekiq("HEXISTS", "#{job["lock_digest"]}:LOCKED", job["jid"]) == 1
  end

  DEATH = lambda do |job, _error|
    d = job["lock_digest"]
    next unless d

    keys = ["", ":QUEUED", ":PRIMED", ":LOCKED", ":RUN", ":RUN:QUEUED", ":RUN:PRIMED", ":RUN:LOCKED"].map { |suffix| d + suffix }
    RedisCall.sidekiq("UNLINK", *keys)
    RedisCall.sidekiq("ZREM", "#{PREFIX}:digests", d)
  end

  class Client
    def call(_class, job, _queue, _pool = nil)
      return yield unless job["lock"]

      job["lock_timeout"] ||= 0
      unless job["lock_digest"]
        job["lock_ttl"] = Integer(job["lock_ttl"] || TTL) + (job["at"] ? [job["at"].to_f - Time.now.to_f, 0].max.to_i : 0)
        job["lock_prefix"] = PREFIX
        job["lock_args"] = job["args"]
        job["lock_digest"] = UniqueJobs.digest(job)
      end
      yield if UniqueJobs.take(job)
    end
  end

  class Server
    def call(_instance, job, _queue, &block)
      return yield unless job["lock_digest"]
      return unless locked?(job)

      job["lock"] == "until_executing" ? executing(job, &block) : executed(job, &block)
    end

    private

    # A job whose lock is gone (expired, reaped, given back after a failure) takes it again, for about a second.
    def locked?(job)
      return true if UniqueJobs.held?(job)

      10.times do
        return true if UniqueJobs.take(job)

        sleep 0.1
      end
      false
    end

    def executing(job)
      UniqueJobs.give(job)
      begin
        yield
      rescue Exception
        UniqueJobs.take(job)
        raise
      end
    end

    def executed(job)
      result = yield
      done = true
      result
    ensure
      UniqueJobs.give(job) if done || RELEASE == "always"
    end
  end
end
