#!/bin/sh
# Measures Queueville against its peers on throwaway servers (docs/benchmarks.md). Arguments go to the benchmark:
#
#   scripts/bench.sh                          everything, three quarters of an hour; leave the machine alone meanwhile
#   scripts/bench.sh -suite noop              one suite: noop, delivery, memory, deadhosts, shared, full or scheduler
#   scripts/bench.sh -suite scheduler -part burn
#                                             one part of the scheduler suite (-help lists them)
#   scripts/bench.sh -quick                   a look, a few minutes
#   scripts/bench.sh -json > result.json      for scripts
#   scripts/bench.sh -strict                  exit status 1 when a target is missed
set -eu
cd "$(dirname "$0")/../bench"

missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need go golang
need redis-server redis-server
need sidekiq ruby-sidekiq
[ -x /usr/lib/postgresql/15/bin/postgres ] || need postgres postgresql
if command -v ruby >/dev/null 2>&1; then
	ruby -e 'require "http"' 2>/dev/null || missing="$missing ruby-http"
	ruby -e 'require "pg"' 2>/dev/null || missing="$missing ruby-pg"
	ruby -e 'require "logger"; require "active_record"' 2>/dev/null || missing="$missing ruby-activerecord"
	ruby -e 'require "logger"; require "active_job"' 2>/dev/null || missing="$missing ruby-activejob"
	gem() { ruby -e 'require "logger"; require ARGV[0]' "$1" 2>/dev/null || missing="$missing $2"; }
	gem action_mailer ruby-actionmailer
	# What else Mastodon loads, as far as Debian has it; for its weight only.
	for name in addressable/uri aws-sdk-s3 elasticsearch haml mime/types oj omniauth ox premailer pundit redcarpet rqrcode sanitize; do
		gem "$name" "ruby-$(echo "${name%/uri}" | tr / -)"
	done
	ruby -e 'Gem::Specification.find_by_name("rails-i18n")' 2>/dev/null || missing="$missing ruby-rails-i18n"
fi
if [ -n "$missing" ]; then
	echo "bench: error: not on this machine:$missing" >&2
	echo "bench: hint: apt-get install --no-install-recommends$missing" >&2
	exit 1
fi

# The suites keep 1,000 listeners and as many connections on each side.
ulimit -n 16384 2>/dev/null || ulimit -n "$(ulimit -Hn)"

program=$(mktemp -d)
trap 'rm -rf "$program"' EXIT INT TERM
go build -o "$program/bench" ./cmd/bench
"$program/bench" -root .. "$@"
