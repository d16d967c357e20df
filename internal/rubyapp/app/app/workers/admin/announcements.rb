# frozen_string_literal: true

module Admin
  # Long, and made of steps: iterable where Sidekiq has that (7.3 and later), so that it goes on where it was interrupted. Notes every step in
  # note:announcement:<id>.
  class DistributeAnnouncementNotificationWorker
    if defined?(Sidekiq::IterableJob)
      include Sidekiq::IterableJob

      def build_enumerator(_announcement_id, steps = 10, _milliseconds = 20, cursor:)
        array_enumerator((0...steps).to_a, cursor: cursor)
      end

      def each_iteration(step, announcement_id, _steps = 10, milliseconds = 20)
        run(step, announcement_id, milliseconds)
      end
    else
      include Sidekiq::Job

      def perform(announcement_id, steps = 10, milliseconds = 20)
        steps.times { |step| run(step, announcement_id, milliseconds) }
      end
    end

    private

    def run(step, announcement_id, milliseconds)
      sleep milliseconds / 1000.0
      Record.note("announcement:#{announcement_id}", step.to_s)
    end
  end
end
