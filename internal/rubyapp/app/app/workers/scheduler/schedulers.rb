# frozen_string_literal: true

# Recurring jobs. They name no queue: their entry in config/sidekiq.yml does.
module Scheduler
  class Base
    include Sidekiq::Job
    sidekiq_options retry: 0, lock: :until_executed, lock_ttl: 86_400

    def perform
      Account.count
    end
  end

  class ScheduledStatusesScheduler < Base; sidekiq_options lock_ttl: 3600; end
  class IndexingScheduler < Base; sidekiq_options lock_ttl: 1800; end
  class VacuumScheduler < Base; end
  class UserCleanupScheduler < Base; end
  class PgheroScheduler < Base; end
  class InstanceRefreshScheduler < Base; end

  module Trends
    class RefreshScheduler < Base; sidekiq_options lock_ttl: 1800; end
  end
end
