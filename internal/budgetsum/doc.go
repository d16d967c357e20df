// Package budgetsum makes the sum that the spreadsheets of Mastodon's admins make: what a PostgreSQL server, or the PgBouncer before it,
// allows, less what everybody can open, is what is left for Queueville.
//
// In flow Mastodon's environment file, systemd units, what a person says about other hosts, and what the servers themselves measure. Out
// flows a Sum of rows, each with where its number comes from, and the contradictions as Problems. Pools open connections when they need
// them, so a quiet moment proves nothing: rows say what can be open, with what is open now beside it.
//
// Make, the readers of settings and the renderer are pure. Only MeasureServer and ReadPooler talk to servers, with one connection each,
// bounded by their contexts. The package starts no goroutines and changes nothing anywhere.
package budgetsum
