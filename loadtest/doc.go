// Package loadtest is the synthetic far side of the internet, in parts that stand alone:
//
//   - loadtest/fediverse: receivers. Instances on loopback addresses with names, certificates and moods of their own,
//     which verify every signature and digest and keep a ledger of what they were sent;
//   - loadtest/mastodondata: Mastodon-shaped tables in Postgres, and deliveries as Sidekiq jobs;
//   - loadtest/activities: the ActivityPub documents those jobs carry.
//
// This package joins them: a World is made of classes of hosts, each with a share and a busyness, and Deliveries are what would
// leave a server whose authors are followed from those hosts. It starts no goroutines.
// Packages here are clients of the worker like any other: they never import it.
package loadtest
