# frozen_string_literal: true

# Queue pull: other servers are asked, little is computed.

module ExponentialBackoff
  def self.included(base)
    base.sidekiq_retry_in { |count| 15 + (10 * (count**4)) + rand(10 * (count**4)) }
  end
end

# Unique until it has run.
class ResolveAccountWorker
  include Sidekiq::Job
  sidekiq_options queue: "pull", lock: :until_executed, lock_ttl: 86_400

  def perform(acct)
    username, domain = acct.split("@")
    answer = Remote.get("/.well-known/webfinger?resource=acct:#{acct}")
    JSON.parse(answer)
    Account.where(username: username, domain: domain).limit(1).pluck(:id, :uri)
  end
end

class ThreadResolveWorker
  include Sidekiq::Job
  include ExponentialBackoff
  sidekiq_options queue: "pull", retry: 3

  def perform(child_status_id, parent_url, _options = {})
    child = Status.find_by(id: child_status_id)
    answer = JSON.parse(Remote.get(parent_url))
    Work.sanitise(answer["content"].to_s)
    child&.touch
  end
end

class LinkCrawlWorker
  include Sidekiq::Job
  sidekiq_options queue: "pull", retry: 0

  def perform(status_id, url = "/card")
    page = Remote.get(url)
    page[/"title"\s*:\s*"([^"]*)"/, 1]
    Status.where(id: status_id).exists?
  end
end

# Fails for an account that is not there, and is tried again.
class RemoteAccountRefreshWorker
  include Sidekiq::Job
  include ExponentialBackoff
  sidekiq_options queue: "pull", retry: 3

  def perform(account_id)
    Account.find(account_id)
  end
end

# Fails and is neither tried again nor kept.
class BulkImportWorker
  include Sidekiq::Job
  sidekiq_options queue: "pull", retry: false

  def perform(import_id)
    raise ArgumentError, "there is no import #{import_id}"
  end
end

# Unique, and fails unless the account exists: what becomes of its lock?
class AccountRefreshWorker
  include Sidekiq::Job
  sidekiq_options queue: "pull", retry: 3, dead: false, lock: :until_executed, lock_ttl: 86_400

  def perform(account_id, _options = {})
    Account.find(account_id)
    Remote.get("/users/#{account_id}")
  end
end
