# frozen_string_literal: true

# Mails, as ActiveJob enqueues them on queue mailers. Nothing is sent: the mail is rendered and noted in note:mail.
module ActionMailer
  class MailDeliveryJob < ActiveJob::Base
    queue_as :mailers
    discard_on ActiveJob::DeserializationError

    def perform(mailer, method, delivery, args: [], params: nil)
      text = args.map(&:to_s).join(" ")
      sleep 0.02 # the mail server
      Record.note("mail", "mailer" => mailer, "method" => method, "delivery" => delivery, "text" => text, "jid" => provider_job_id, "params" => params)
    end
  end
end
