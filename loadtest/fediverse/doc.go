// Package fediverse runs a synthetic fediverse: many ActivityPub instances as real HTTPS receivers on loopback addresses.
//
// Every instance is a name under .test, an address of its own in 127.0.0.0/8 (all of one fediverse share one free port), and
// a [Behaviour]: how its name resolves, whether it accepts connections, which certificate it shows, how long it takes and what
// it answers. Names are served by a small DNS server on 127.0.0.1. Certificates come from an [Authority] that the caller gives.
//
// Every request that reaches a receiver has its signature and digest verified, with code that is not the worker's signer:
// go-fed/httpsig for draft-cavage signatures, yaronf/httpsign for RFC 9421. What was received is counted per host, and kept per
// delivery in a bounded ledger, so that a caller can tell for every job what became of it.
//
// [Start] starts one goroutine per listener and two for names; [Fediverse.Close] ends all and waits for them. Nothing listens
// on, or connects to, an address outside 127.0.0.0/8. What a receiver does depends only on the seed, the host and the delivery,
// never on the order in which requests happen to arrive, so two runs with one seed see the same failures.
package fediverse
