# frozen_string_literal: true

module ActivityPub
  # One inbound activity: on the processor for a few to some tens of milliseconds, and a handful of statements.
  class ProcessingWorker
    include Sidekiq::Job
    sidekiq_options queue: "ingress", backtrace: true, retry: 8

    def perform(actor_id, body, _delivered_to_account_id = nil, _actor_type = "Account")
      json = begin
        JSON.parse(body)
      rescue JSON::ParserError
        return
      end
      actor = Account.find_by(id: actor_id)
      return if actor.nil?

      digest = Work.canonical(json.except("signature"), Integer(json["rounds"] || 6))
      return unless signed?(json, actor)

      case json["type"]
      when "Create" then create(json, actor, digest)
      when "Delete" then delete(json)
      end
    end

    private

    def signed?(json, actor)
      signature = json.dig("signature", "signatureValue") or return false
      key = actor.public_rsa or return false
      key.verify(OpenSSL::Digest.new("SHA256"), signature.unpack1("m"), json["id"])
    end

    def create(json, actor, digest)
      object = json["object"]
      return if Status.exists?(uri: object["id"])

      text = Work.sanitise(object["content"])
      ApplicationRecord.transaction do
        status = Status.create!(account_id: actor.id, uri: object["id"], text: text, digest: digest)
        ApplicationRecord.connection.exec_update(<<~SQL, "count", [])
          INSERT INTO account_stats (account_id, statuses_count, created_at, updated_at) VALUES (#{actor.id}, 1, now(), now())
          ON CONFLICT (account_id) DO UPDATE SET statuses_count = account_stats.statuses_count + 1, updated_at = now()
        SQL
        DistributionWorker.perform_async(status.id, {"fan" => Integer(json["fan"])}) if json["fan"]
      end
    rescue ActiveRecord::RecordNotUnique
      nil # another delivery of the same activity was quicker
    end

    def delete(json)
      uri = json["object"].is_a?(Hash) ? json.dig("object", "id") : json["object"]
      status = Status.find_by(uri: uri)
      return status.destroy! if status

      RedisCall.base("SETEX", "delete_upon_arrival:#{uri}", 21_600, "true")
    end
  end
end
