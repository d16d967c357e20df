# frozen_string_literal: true

# The no-op job for a real Sidekiq process. Its log is at WARN, for one line per job would be most of the cost.
require "sidekiq"

Sidekiq.logger.level = Logger::WARN

module ActivityPub
  class DeliveryWorker
    include Sidekiq::Worker
    sidekiq_options queue: "push", retry: 16, dead: false

    def perform(json, account_id, inbox_url, options = {}); end
  end
end
