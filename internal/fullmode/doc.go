// Package fullmode holds tests only: `queueville work --full` with real Ruby processes, on a whole synthetic Mastodon.
package fullmode
