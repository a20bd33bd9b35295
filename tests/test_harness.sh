#!/bin/sh
# The table of tests/backends shows what a backend refuses, goes on, and holds it to the rest.
# Usage: test_harness.sh NIBBLE SOURCE_DIR
set -eu
harness=$(dirname "$1")/test_backends
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

check() { # what, status that is expected, status that came
    [ "$2" = "$3" ] || { echo "$1: exit status $3, expected $2" >&2; cat "$work/out" >&2; exit 1; }
}

status=0
NIBBLE_TEST_REFUSES=attention "$harness" --backend guarded:portable --only '^attention' > "$work/out" || status=$?
check "a refusal alone" 0 $status
grep -q '^    not supported, 1 of [0-9]* shapes: shape 1: guarded: attention with heads of 24' "$work/out"
grep -q '^attention_forward attention_ .* ok$' "$work/out"

status=0
NIBBLE_TEST_REFUSES=attention "$harness" --backend guarded:portable --only '^attention' --whole > "$work/out" || status=$?
check "a refusal where nothing may be refused" 1 $status

status=0
"$harness" --backend guarded:portable --only '^attention' --whole > "$work/out" || status=$?
check "nothing refused" 0 $status

# Every operation is in one group, and one only, of those that scripts/gpu-check runs under a sanitizer.
awk '/<< .GROUPS./ { on = 1; next } /^GROUPS$/ { on = 0 } on { print $2 }' "$2/scripts/gpu-check" > "$work/patterns"
"$harness" --list | cut -d : -f 1 | sort -u > "$work/operations"
while read -r operations; do
    found=0
    while read -r pattern; do
        if echo "$operations" | grep -qE "$pattern"; then found=$((found + 1)); fi
    done < "$work/patterns"
    [ $found = 1 ] || { echo "gpu-check: \"$operations\" is in $found groups, expected 1" >&2; exit 1; }
done < "$work/operations"
