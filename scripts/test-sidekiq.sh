#!/usr/bin/env bash
# Runs the tests against the original with another Sidekiq than Debian 12's 6.4.1.
#
#   scripts/test-sidekiq.sh                a Debian 13 tree with Sidekiq 7.3.2; made once, needs root
#   SIDEKIQ=DIR scripts/test-sidekiq.sh    a checkout of Sidekiq's source, of any version
#
# A checkout runs with this machine's Ruby if that can load it, else with the tree's (Ruby 3.3). What its gemspec asks for and the Ruby
# does not have is added with RUBYLIB=dir:dir, e.g. RUBYLIB=redis-client/lib:connection_pool/lib.
# PACKAGES and RUN change which tests run. The tree is $XDG_CACHE_HOME/queueville/debian-13-sidekiq (about 180 MB).
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/go/bin"

# Those whose tests talk to the original.
users='{{ $p := .ImportPath }}{{ range .TestImports }}{{ $p }} {{ . }}{{ "\n" }}{{ end }}{{ range .XTestImports }}{{ $p }} {{ . }}{{ "\n" }}{{ end }}'
packages=${PACKAGES:-./internal/oracle $(go list -e -f "$users" ./... | awk '$2 ~ /\/internal\/oracle$/ { print $1 }' | sort -u)}
run=${RUN:-Oracle|Conformance|Ruby|Sidekiq}
say() { printf 'test-sidekiq: %s\n' "$*" >&2; }

go_test() {
	# -count=1: which Sidekiq it is does not show in Go's test cache key.
	# shellcheck disable=SC2086
	CI=true go test -count=1 -timeout 15m -run "$run" $packages
}

checkout=
if [ -n "${SIDEKIQ:-}" ]; then
	if [ ! -f "$SIDEKIQ/lib/sidekiq.rb" ]; then
		say "error: $SIDEKIQ has no lib/sidekiq.rb; give the root of Sidekiq's source"
		exit 1
	fi
	checkout=$(cd "$SIDEKIQ" && pwd)
	if version=$(RUBYLIB="$checkout/lib:${RUBYLIB:-}" ruby -e 'require "sidekiq"; print Sidekiq::VERSION' 2>/dev/null); then
		export RUBYLIB="$checkout/lib:${RUBYLIB:-}" RUBY=ruby SIDEKIQ="ruby $checkout/bin/sidekiq"
		say "Sidekiq $version from $checkout"
		go_test
		exit
	fi
	say "this machine's Ruby does not load $checkout; trying that of Debian 13"
fi

if [ "$(id -u)" != 0 ]; then
	say "error: making a Debian tree needs root"
	say "hint: sudo make test-sidekiq, or SIDEKIQ=/path/to/sidekiq make test-sidekiq"
	exit 1
fi
command -v debootstrap >/dev/null || scripts/setup.sh sidekiq

cache=${XDG_CACHE_HOME:-$HOME/.cache}/queueville
tree=$cache/debian-13-sidekiq
mkdir -p "$cache"

# mirror prints the address that this machine gets Debian's main archive from, of either format of apt's sources.
mirror() {
	if command -v apt-get >/dev/null; then
		apt-get indextargets --format '$(REPO_URI) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' 2>/dev/null |
			awk '$2 == "main" && $3 == "Debian" && $1 !~ /security/ { print $1; exit }'
	fi
}

make_tree() {
	local new=$tree.new archive
	archive=$(mirror)
	if [ -z "$archive" ]; then
		say "error: no Debian archive in this machine's apt sources (after apt-get update)"
		exit 1
	fi
	# A half-made tree of a run that was cut off may still have something mounted in it: never delete through a mount.
	if awk '{ print $2 }' /proc/mounts | grep -q "^$new/"; then
		say "error: something is mounted below $new; unmount it"
		exit 1
	fi
	rm -rf --one-file-system "$new"
	say "making a Debian 13 tree from $archive (once, some minutes)"
	local log=$cache/debootstrap.log
	if ! debootstrap --variant=minbase --include=ruby-sidekiq trixie "$new" "$archive" >"$log" 2>&1; then
		tail -n 30 "$log" "$new/debootstrap/debootstrap.log" >&2 || true
		say "error: debootstrap failed"
		exit 1
	fi
	rm -rf "$new"/var/cache/apt/archives/*.deb "$new"/var/lib/apt/lists/*
	mv "$new" "$tree"
}

exec 9>"$cache/debian-13-sidekiq.lock" # one maker at a time
flock 9
[ -x "$tree/usr/bin/ruby" ] || make_tree
flock -u 9
exec 9>&-

mounted=
cleanup() {
	[ -z "$mounted" ] || umount "$tree/proc" || say "warning: $tree/proc stays mounted"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
# Sidekiq reads its memory use there. Some containers do not allow it; it then reports 0.
if [ ! -e "$tree/proc/self" ]; then
	if mount -t proc proc "$tree/proc" 2>/dev/null; then mounted=1; else say "no /proc in the tree (mount is not allowed here)"; fi
fi

scripts=internal/oracle/ruby
if [ ! -d "$scripts" ]; then
	say "error: $scripts is not there"
	exit 1
fi
rm -rf --one-file-system "$tree/oracle"
mkdir "$tree/oracle"
cp "$scripts"/*.rb "$tree/oracle/"

# A checkout, and what RUBYLIB adds to it, go into the tree as copies: nothing of the machine is mounted there.
env="env -C /oracle"
rm -rf --one-file-system "$tree/opt/sidekiq"
if [ -n "$checkout" ]; then
	mkdir -p "$tree/opt/sidekiq"
	cp -R "$checkout/lib" "$checkout/bin" "$tree/opt/sidekiq/"
	[ ! -d "$checkout/web" ] || cp -R "$checkout/web" "$tree/opt/sidekiq/"
	path=/opt/sidekiq/lib
	n=0
	while IFS= read -r -d : dir; do
		[ -d "$dir" ] || continue
		n=$((n + 1))
		cp -R "$dir" "$tree/opt/sidekiq/more-$n"
		path=$path:/opt/sidekiq/more-$n
	done <<<"${RUBYLIB:-}:"
	unset RUBYLIB # of this machine
	env="$env RUBYLIB=$path"
	SIDEKIQ="chroot $tree $env ruby /opt/sidekiq/bin/sidekiq"
else
	SIDEKIQ="chroot $tree $env sidekiq"
fi
export SIDEKIQ RUBY="chroot $tree $env ruby"

# shellcheck disable=SC2086
version=$($RUBY -e 'require "sidekiq"; print Sidekiq::VERSION') || {
	say "error: that Sidekiq does not load; RUBYLIB=dir:dir adds what its gemspec asks for"
	exit 1
}
say "Sidekiq $version in $tree"
go_test
