#!/usr/bin/env bash
# Looks whether this machine has what a target needs, and installs what is missing with apt-get if it may.
#
#   scripts/setup.sh demo|test|sidekiq
#
# demo:    redis-server, PostgreSQL's server
# test:    those, PgBouncer, Ruby with Sidekiq, http, pg, ActiveRecord and ActiveJob, CA certificates
# sidekiq: those and debootstrap (for make test-sidekiq)
#
# When all is there it changes nothing, needs no network and takes a fraction of a second. Otherwise, as root or with a sudo that asks
# no password, it installs the packages and starts none of their services; else it prints the command and exits with 1.
# QUEUEVILLE_NO_SETUP=1 keeps it from installing.
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${1:-test}
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/go/bin"

say() { printf 'setup: %s\n' "$*" >&2; }

check_go() {
	if ! command -v go >/dev/null; then
		say "error: go is not in PATH"
		say "hint: install Go $(go_wanted) or later from go.dev/dl; Debian 12's own package is too old"
		exit 1
	fi
	local have wanted
	# Outside the module, so that an old go says its version rather than fetch another toolchain.
	have=$(cd / && GOTOOLCHAIN=local go env GOVERSION)
	have=${have#go}
	have=${have%% *}
	wanted=$(go_wanted)
	if [ "$(printf '%s\n%s\n' "$wanted" "$have" | sort -V | head -n 1)" != "$wanted" ]; then
		case $(cd / && go env GOTOOLCHAIN) in
		local | local+path)
			say "error: this is Go $have, and $wanted or later is needed"
			exit 1
			;;
		*) say "this is Go $have; it fetches $wanted by itself" ;;
		esac
	fi
}

go_wanted() { awk '$1 == "go" { print $2; exit }' go.mod; }

have_postgres() {
	local bin
	for bin in "$(command -v postgres || true)" /usr/lib/postgresql/*/bin/postgres; do
		[ -n "$bin" ] && [ -x "$bin" ] && [ -x "$(dirname "$bin")/initdb" ] && return 0
	done
	return 1
}

# missing_gems prints those of its arguments that Ruby does not have.
missing_gems() {
	if ! command -v ruby >/dev/null; then
		printf '%s\n' "$@"
		return
	fi
	ruby -e 'ARGV.each { |g| puts g if Gem::Specification.find_all_by_name(g).empty? }' "$@"
}

# missing prints the packages to install, one a line.
missing() {
	command -v redis-server >/dev/null || echo redis-server
	have_postgres || echo postgresql
	[ "$profile" = demo ] && return
	command -v pgbouncer >/dev/null || echo pgbouncer
	command -v ruby >/dev/null || echo ruby
	missing_gems sidekiq redis rack http pg activerecord activejob | sed 's/^/ruby-/'
	command -v sidekiq >/dev/null || echo ruby-sidekiq
	if [ ! -s "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" ] && [ ! -s /etc/pki/tls/certs/ca-bundle.crt ]; then
		echo ca-certificates
	fi
	if [ "$profile" = sidekiq ]; then
		command -v debootstrap >/dev/null || echo debootstrap
	fi
}

case $profile in
demo | test | sidekiq) ;;
*)
	say "error: no profile $profile; there are demo, test and sidekiq"
	exit 2
	;;
esac

check_go
packages=$(missing | sort -u | tr '\n' ' ')
packages=${packages% }
[ -z "$packages" ] && exit 0

command="apt-get update && apt-get install -y --no-install-recommends $packages"
give_up() {
	say "error: $1"
	say "hint: run as root: $command"
	exit 1
}

[ -z "${QUEUEVILLE_NO_SETUP:-}" ] || give_up "missing: $packages"
command -v apt-get >/dev/null || give_up "missing: $packages, and there is no apt-get; install the equivalents"
sudo=()
if [ "$(id -u)" != 0 ]; then
	if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
		give_up "missing: $packages, and installing needs root"
	fi
	sudo=(sudo -n)
fi

say "installing $packages"
log=$(mktemp)
policy=/usr/sbin/policy-rc.d
made_policy=
cleanup() {
	[ -z "$made_policy" ] || "${sudo[@]}" rm -f "$policy"
	rm -f "$log"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

# Debian starts a service as soon as it is installed, unless this file says no. An existing one is the administrator's.
if [ ! -e "$policy" ]; then
	made_policy=1
	printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
	"${sudo[@]}" chmod 755 "$policy"
fi

apt() {
	"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" >>"$log" 2>&1
}
# Word splitting is meant: one package a word.
# shellcheck disable=SC2086
if ! apt update || ! apt install -y --no-install-recommends $packages; then
	tail -n 40 "$log" >&2
	give_up "apt-get failed"
fi

# On a machine with systemd the new services would start at the next boot, Redis on the port that everybody uses.
if [ -d /run/systemd/system ]; then
	for package in $packages; do
		case $package in redis-server | postgresql | pgbouncer) "${sudo[@]}" systemctl disable --quiet "$package" 2>>"$log" || true ;; esac
	done
fi

hash -r
left=$(missing | sort -u | tr '\n' ' ')
[ -z "$left" ] || give_up "still missing after installing: ${left% }"
say "done"
