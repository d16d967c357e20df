#!/usr/bin/env bash
# Runs every fuzz target for a while, one after another:  scripts/fuzz.sh 30s [package …]
# go test fuzzes one target at a time, so this finds them first. Finds go to the package's testdata/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-30s}
shift || true
failed=0
for dir in $(go list -f '{{.Dir}}' "${@:-./...}"); do
	for target in $(cat "$dir"/*_test.go 2>/dev/null | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p'); do
		printf '== %s %s\n' "${dir#"$PWD"/}" "$target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$dir" || failed=1
	done
done
exit $failed
