#!/usr/bin/env bash
# Runs what is tested against the original, and full mode on real Ruby processes, with another Sidekiq than Debian 12's 6.4.1.
#
#   scripts/test-sidekiq.sh                a Debian 13 tree with Sidekiq 7.3.2; made once, needs root and leave to mount
#   SIDEKIQ=DIR scripts/test-sidekiq.sh    a checkout of Sidekiq's source, of any version
#
# A checkout runs with this machine's Ruby if that can load it, else with the tree's (Ruby 3.3). What its gemspec asks for and the Ruby
# does not have is added with RUBYLIB=dir:dir, e.g. RUBYLIB=redis-client/lib:connection_pool/lib.
# PACKAGES runs only these packages, RUN only these tests. The tree is $XDG_CACHE_HOME/queueville/debian-13-sidekiq (about 200 MB).
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/go/bin"

# Those whose tests talk to the original, and those that run the Ruby application.
users='{{ $p := .ImportPath }}{{ range .TestImports }}{{ $p }} {{ . }}{{ "\n" }}{{ end }}{{ range .XTestImports }}{{ $p }} {{ . }}{{ "\n" }}{{ end }}'
apps="./internal/rubyapp ./worker/ruby ./internal/fullmode"
say() { printf 'test-sidekiq: %s\n' "$*" >&2; }

# -count=1: which Sidekiq it is does not show in Go's test cache key. -p 1: as in make test.
go_test() { CI=true go test -count=1 -p 1 -timeout 20m "$@"; }

# shellcheck disable=SC2046,SC2086
all_tests() {
	if [ -n "${PACKAGES:-}" ]; then
		go_test -run "${RUN:-.}" $PACKAGES
		return
	fi
	local status=0
	go_test -run "${RUN:-Oracle|Conformance|Ruby|Sidekiq}" ./internal/oracle \
		$(go list -e -f "$users" ./... | awk '$2 ~ /\/internal\/oracle$/ { print $1 }' | sort -u) || status=$?
	go_test -run "${RUN:-.}" $apps || status=$?
	return "$status"
}

checkout=
if [ -n "${SIDEKIQ:-}" ]; then
	if [ ! -f "$SIDEKIQ/lib/sidekiq.rb" ]; then
		say "error: $SIDEKIQ has no lib/sidekiq.rb; give the root of Sidekiq's source"
		exit 1
	fi
	checkout=$(cd "$SIDEKIQ" && pwd)
	if [ -z "${QUEUEVILLE_OWN_MOUNTS:-}" ] && version=$(RUBYLIB="$checkout/lib:${RUBYLIB:-}" ruby -e 'require "sidekiq"; print Sidekiq::VERSION' 2>/dev/null); then
		export RUBYLIB="$checkout/lib:${RUBYLIB:-}" RUBY=ruby SIDEKIQ="ruby $checkout/bin/sidekiq"
		say "Sidekiq $version from $checkout"
		all_tests
		exit
	fi
	[ -n "${QUEUEVILLE_OWN_MOUNTS:-}" ] || say "this machine's Ruby does not load $checkout; trying that of Debian 13"
fi

if [ "$(id -u)" != 0 ]; then
	say "error: making a Debian tree needs root"
	say "hint: sudo make test-sidekiq, or SIDEKIQ=/path/to/sidekiq make test-sidekiq"
	exit 1
fi
# What is mounted for a run is seen by its processes alone, and gone with the last of them, however they end.
if [ -z "${QUEUEVILLE_OWN_MOUNTS:-}" ]; then
	if ! unshare --mount true 2>/dev/null; then
		say "error: mounting is not allowed here, and Ruby needs /proc and the tests' files in its tree"
		say "hint: in a container, allow CAP_SYS_ADMIN (docker run --cap-add SYS_ADMIN --security-opt apparmor=unconfined)"
		exit 1
	fi
	QUEUEVILLE_OWN_MOUNTS=1 exec unshare --mount --propagation private scripts/test-sidekiq.sh
fi
command -v debootstrap >/dev/null || scripts/setup.sh sidekiq

cache=${XDG_CACHE_HOME:-$HOME/.cache}/queueville
tree=$cache/debian-13-sidekiq
packages=ruby-sidekiq,ruby-activerecord,ruby-activejob,ruby-pg
mkdir -p "$cache"

# mirror prints the address that this machine gets Debian's main archive from, of either format of apt's sources.
mirror() {
	if command -v apt-get >/dev/null; then
		apt-get indextargets --format '$(REPO_URI) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' 2>/dev/null |
			awk '$2 == "main" && $3 == "Debian" && $1 !~ /security/ { print $1; exit }'
	fi
}

# remove deletes a tree, but never through a mount, which a run that was cut off, or a person, may have left in it.
remove() {
	if awk '{ print $2 }' /proc/mounts | grep -q "^$1/"; then
		say "error: something is mounted below $1; unmount it"
		exit 1
	fi
	rm -rf --one-file-system "$1"
}

make_tree() {
	local new=$tree.new archive
	archive=$(mirror)
	if [ -z "$archive" ]; then
		say "error: no Debian archive in this machine's apt sources (after apt-get update)"
		exit 1
	fi
	remove "$new"
	say "making a Debian 13 tree from $archive (once, some minutes)"
	local log=$cache/debootstrap.log
	if ! debootstrap --variant=minbase --include="$packages" trixie "$new" "$archive" >"$log" 2>&1; then
		tail -n 30 "$log" "$new/debootstrap/debootstrap.log" >&2 || true
		say "error: debootstrap failed"
		exit 1
	fi
	rm -rf "$new"/var/cache/apt/archives/*.deb "$new"/var/lib/apt/lists/*
	remove "$tree"
	mv "$new" "$tree"
}

# has_packages is false for a tree of an earlier version of this script as well, which is then made anew.
has_packages() {
	local package
	for package in ${packages//,/ }; do [ -d "$tree/usr/share/doc/$package" ] || return 1; done
}

exec 9>"$cache/debian-13-sidekiq.lock" # one maker at a time
flock 9
has_packages || make_tree
flock -u 9
exec 9>&-

scripts=internal/oracle/ruby
if [ ! -d "$scripts" ]; then
	say "error: $scripts is not there"
	exit 1
fi

# The tests' files have the same names inside of the tree as outside, short ones (they hold sockets), below a directory that PostgreSQL's
# account can enter, as it cannot a home directory.
work=$(mktemp -d /tmp/qs.XXXXXX)
chmod 755 "$work"
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM HUP
mount -t proc proc "$tree/proc" # Sidekiq from 7.3 cannot beat without it
mount -t tmpfs -o mode=755 tmpfs "$tree/opt"
mount -t tmpfs -o mode=1777 tmpfs "$tree/tmp"
mkdir "$tree$work" "$tree/opt/oracle"
mount --bind "$work" "$tree$work"
cp "$scripts"/*.rb "$tree/opt/oracle/"

# A checkout, and what RUBYLIB adds to it, go into the tree as copies: nothing else of the machine is mounted there.
env="env -C /opt/oracle"
if [ -n "$checkout" ]; then
	mkdir "$tree/opt/sidekiq"
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
	# The Ruby application starts `sidekiq`, with RUBYLIB of the environment.
	export RUBYLIB=$path PATH="/opt/sidekiq/bin:$PATH"
	env="$env RUBYLIB=$path"
	SIDEKIQ="chroot $tree $env ruby /opt/sidekiq/bin/sidekiq"
else
	unset RUBYLIB # of this machine
	SIDEKIQ="chroot $tree $env sidekiq"
fi
export SIDEKIQ RUBY="chroot $tree $env ruby" RUBYAPP_CHROOT=$tree RUBY_WORK_DIR=$work TMPDIR=$work

# shellcheck disable=SC2086
version=$($RUBY -e 'require "sidekiq"; print Sidekiq::VERSION') || {
	say "error: that Sidekiq does not load; RUBYLIB=dir:dir adds what its gemspec asks for"
	exit 1
}
if [ "$(chroot "$tree" sidekiq -V)" != "Sidekiq $version" ]; then # as the Ruby application starts it
	say "error: the command is $(chroot "$tree" sidekiq -V), the library $version"
	exit 1
fi
say "Sidekiq $version in $tree"
all_tests
