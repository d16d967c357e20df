// Package rubyapp is a small Rails-like Ruby application of our own with the job classes, the queues and the rough weights of a Mastodon
// server, for tests and benchmarks of whatever runs Ruby jobs. Its files (app/) are written into a directory that looks like Mastodon's, with
// .env.production, config/environment.rb, config/sidekiq.yml and a bin/bundle that stands in for Bundler, so that
//
//	cd DIR && RAILS_ENV=production bin/bundle exec sidekiq -c 25
//
// boots it as the units that Mastodon ships do. `sidekiq -r ./app.rb` boots it too. It needs ruby, sidekiq, ActiveRecord, ActiveJob and pg
// (Debian: ruby-sidekiq, ruby-activerecord, ruby-activejob, ruby-pg), a Redis and a PostgreSQL. Rails itself is a stand-in of some hundred
// lines (app/lib/stand_in/rails.rb): engines, executor, reloader.
//
// # Jobs
//
//	ingress    ActivityPub::ProcessingWorker: JSON, canonicalisation, RSA, a handful of statements; a few to some tens of ms of processor time
//	default    DistributionWorker, FeedInsertWorker, PushUpdateWorker, PollExpirationNotifyWorker (unique until it runs)
//	pull       ResolveAccountWorker (unique), ThreadResolveWorker, LinkCrawlWorker: they wait for other servers. RemoteAccountRefreshWorker,
//	           BulkImportWorker, AccountRefreshWorker (unique) fail when what they are told about is not there
//	mailers    ActionMailer::MailDeliveryJob, an ActiveJob
//	scheduler  Scheduler::…, from config/sidekiq.yml
//	default    Admin::DistributeAnnouncementNotificationWorker: iterable where Sidekiq is 7.3 or later
//	default    Trouble::…: Burn, Wait, Query, Read, Hog, Crash, Exit, Raise, Print; what a supervisor has to cope with
//
// Every execution is written to Redis (app/app/lib/record.rb); App.Runs and App.Started read it back.
//
// # Switches
//
// Environment variables of the Ruby process:
//
//	REPLICA_DATABASE_URL REPLICA_DB_NAME REPLICA_DB_HOST …   as Mastodon's: a read replica, which FeedInsertWorker and Trouble::Read ask
//	REDIS_URL DATABASE_URL DB_POOL PGAPPNAME RAILS_ENV RAILS_LOG_LEVEL PREPARED_STATEMENTS SIDEKIQ_CONCURRENCY   as Mastodon's
//	RUBYAPP_RECORD=all|count|none    what every execution writes
//	RUBYAPP_REMOTE=URL               a slow server on loopback; without it a request is a sleep of RUBYAPP_REMOTE_MS (100)
//	RUBYAPP_POLL=SECONDS             how often the retry and schedule sets are looked at
//	RUBYAPP_TICK=5m                  how often Scheduler::ScheduledStatusesScheduler is due
//	RUBYAPP_UNIQUE=always|success    when an until_executed lock is given back; by default as the gem that goes with this Sidekiq
//	RUBYAPP_BOOT=raise|gem|exit|hang ways to fail at boot; connect: one that asks every database
//	RUBYAPP_GEMS=1                   load the rest of Rails, all languages and those of Mastodon's gems that Debian has and that need no web server,
//	                                 about 70 MB, for measurements of memory; scripts/bench.sh lists the packages
//	RUBYAPP_REAL_GEMS=1              the gems sidekiq-unique-jobs and sidekiq-scheduler instead of our stand-ins
//
// And of bin/bundle: SIDEKIQ, words that start Sidekiq; RUBYAPP_CHROOT, a tree whose Ruby is used.
//
// # The real gems
//
// The stand-ins write the same Redis keys as sidekiq-unique-jobs and sidekiq-scheduler. To run tests against the gems themselves, install
// those that go with the Sidekiq at hand (6.x: 7.1.x and 5.0.x; 7.3: 8.0.x and 5.0.x; 8.x: 8.1.x and 6.0.x; older schedulers read another place
// of config/sidekiq.yml), let Ruby find them, and set RUBYAPP_REAL_GEMS=1:
//
//	gem install --install-dir /tmp/gems sidekiq-unique-jobs:7.1.33 sidekiq-scheduler:5.0.3
//	GEM_PATH=/tmp/gems:$(ruby -e 'print Gem.path.join(":")') RUBYAPP_REAL_GEMS=1 go test ./internal/rubyapp ./worker/...
//
// RUBYLIB with the lib directories of checkouts does as well. That way all tests of this package passed with sidekiq-unique-jobs 7.1.33 and
// sidekiq-scheduler 5.0.3 on Sidekiq 6.4.1, with 8.0.13 and 5.0.6 on 7.3.2, with 8.1.0 and 6.0.2 on 8.1.7, but for the one that asks our
// stand-in what it does with the lock of a failing job, and on 6.4.1 that of iterable jobs. scripts/test-sidekiq.sh runs them so:
//
//	SIDEKIQ=/its/source RUBYLIB=unique-jobs/lib:scheduler/lib:… RUBYAPP_REAL_GEMS=1 scripts/test-sidekiq.sh
//
// # Another Ruby
//
// With RUBYAPP_CHROOT=TREE everything runs on the Ruby of a Debian tree, which needs the packages ruby-sidekiq, ruby-activerecord,
// ruby-activejob and ruby-pg. The directories of tests must have the same absolute names in it as outside: tests get a TMPDIR inside of the
// tree, and the tree a link to its root where it stands itself. Sidekiq from 7.3 needs /proc in it, or its heartbeat fails.
//
//	mkdir -p TREE$(dirname TREE) && ln -sfn / TREE/TREE && mount -t proc proc TREE/proc
//	TMPDIR=TREE/tmp RUBYAPP_CHROOT=TREE go test ./internal/rubyapp
//
// The package starts processes, and for each a goroutine that waits for its end, which is before the end of the test.
package rubyapp
