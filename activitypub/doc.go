// Package activitypub performs one Mastodon delivery: it POSTs one activity to one inbox, signed with the key of a local
// account, with the outcomes that Mastodon's ActivityPub::DeliveryWorker and LowPriorityDeliveryWorker give
// (app/workers/activitypub/delivery_worker.rb, app/lib/request.rb, app/lib/delivery_failure_tracker.rb).
//
// In flow the arguments of a job (ParseArgs, Destination); out flow a Result that says what became of it and, on
// the side, what Mastodon's own code reads: the failure tracker's Redis sets, the table unavailable_domains and its Rails cache key.
// Hosts keeps one state per destination: how many requests it may have at once, and whether it is worth trying at all.
//
// The caller asks Hosts.Acquire, calls Deliverer.Deliver and then Hosts.Release; it owns all goroutines. The one long-running
// function is Deliverer.Run, which writes the tracker and keeps the caches fresh. net/http starts two goroutines per connection.
// The package never touches Sidekiq's queues and never decides when a job runs again: it only says how it ended.
package activitypub
