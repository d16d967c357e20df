// Package units reads systemd units and their drop-ins and finds in them the processes of a Mastodon server: Puma, streaming and
// Sidekiq, with the flags and variables that decide how much they run and how many connections they open.
//
// Directories flow in, Units and Problems flow out, each value with its file and line. The package runs nothing, asks systemd nothing,
// changes no file and starts no goroutines. Files are hostile input: they are bounded in size and number, commands and substitutions
// in them are never run, and no message quotes the value of a variable that is not a plain setting.
package units
