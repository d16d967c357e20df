# frozen_string_literal: true

# Jobs that whoever supervises a process has to cope with. Mastodon has none of these names.
module Trouble
  HELD = [] # what Hog keeps

  # On the processor for that many milliseconds of CPU time.
  class Burn
    include Sidekiq::Job

    def perform(milliseconds)
      Work.burn(milliseconds)
    end
  end

  # Waits that many milliseconds.
  class Wait
    include Sidekiq::Job

    def perform(milliseconds)
      sleep milliseconds / 1000.0
    end
  end

  # Takes that many MiB and never gives them back.
  class Hog
    include Sidekiq::Job

    def perform(mebibytes)
      mebibytes.times { HELD << Random.bytes(1 << 20) }
    end
  end

  # Ends its process by a signal.
  class Crash
    include Sidekiq::Job

    def perform(signal = "KILL")
      Process.kill(signal, Process.pid)
      sleep 5 # until it is delivered
    end
  end

  # Ends its process without a word to Sidekiq.
  class Exit
    include Sidekiq::Job

    def perform(status = 1)
      exit!(status)
    end
  end

  # Raises. With Sidekiq's own delays it is tried again.
  class Raise
    include Sidekiq::Job
    sidekiq_options retry: 25

    def perform(message = "told to")
      raise message
    end
  end

  # Writes to both outputs, past every logger.
  class Print
    include Sidekiq::Job

    def perform(text)
      $stdout.puts(text)
      $stderr.puts(text)
    end
  end

  # Reads where reads go, and notes whether that is a replica (note:read).
  class Read
    include Sidekiq::Job

    def perform(milliseconds)
      Database.with_read_replica do
        Record.note("read", ApplicationRecord.connection.select_value("SELECT pg_is_in_recovery()").to_s)
        ApplicationRecord.connection.execute("SELECT pg_sleep(#{Float(milliseconds) / 1000})")
      end
    end
  end

  # Does what a query does: the database is what takes the time.
  class Query
    include Sidekiq::Job

    def perform(milliseconds)
      ApplicationRecord.connection.execute("SELECT pg_sleep(#{Float(milliseconds) / 1000})")
    end
  end
end
