// Package mastodondata makes what a Mastodon server has in Postgres and Redis as far as deliveries need it: tables of the shape of a
// given release line with local accounts, their keys and their followers, and delivery jobs in Sidekiq's own form.
//
// It is the write side only: private keys are encrypted here as Active Record Encryption does, and decrypted by activitypub, which
// this package must not import, so that the two check each other. It starts no goroutines.
package mastodondata
