# frozen_string_literal: true

# Queue default.

# Renders a status and fans it out to `fan` local followers.
class DistributionWorker
  include Sidekiq::Job

  def perform(status_id, options = {})
    return unless RedisCall.base("SET", "lock:distribute:#{status_id}", jid, "NX", "EX", 60)

    begin
      status = Status.includes(:account).find_by(id: status_id)
      return if status.nil?

      RedisCall.base("PUBLISH", "timeline:public", Work.render(status, status.account))
      fan = options.fetch("fan", 0)
      FeedInsertWorker.perform_bulk(Array.new(fan) { |i| [status_id, i + 1, "home"] }) if fan.positive?
    ensure
      RedisCall.base("DEL", "lock:distribute:#{status_id}")
    end
  end
end

# Inserts a status into one home feed: two statements and two commands.
class FeedInsertWorker
  include Sidekiq::Job

  def perform(status_id, id, type = "home", _options = {})
    unwanted = Database.with_read_replica do
      status = Status.find_by(id: status_id)
      status.nil? || Follow.where(account_id: id, target_account_id: status.account_id, show_reblogs: false).exists?
    end
    return if unwanted

    key = "feed:#{type}:#{id}"
    RedisCall.base("ZADD", key, status_id, status_id)
    RedisCall.base("ZREMRANGEBYRANK", key, 0, -801)
  end
end

# Renders a status and publishes it.
class PushUpdateWorker
  include Sidekiq::Job

  def perform(account_id, status_id, timeline_key = nil, _options = {})
    status = Status.includes(:account).find(status_id)
    RedisCall.base("PUBLISH", timeline_key || "timeline:#{account_id}", Work.render(status, status.account))
  end
end

# Its lock is given back before it runs.
class PollExpirationNotifyWorker
  include Sidekiq::Job
  sidekiq_options lock: :until_executing

  def perform(poll_id)
    Account.where(id: poll_id).exists?
  end
end
