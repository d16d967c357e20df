// Package mastodonenv reads the configuration that a Mastodon server already has: its .env.production, with the process environment
// on top, as Ruby's dotenv reads them. What flows in is a path and an environment, what flows out is a Config and a list of Problems:
// all of them at once, each with its place and what to do. The package connects to nothing and starts no goroutines.
//
// Passwords and keys are of type Secret, which no fmt verb, logger or encoder prints.
package mastodonenv
