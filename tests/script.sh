# shellcheck shell=sh
# script.sh: what scripts of tests share: a folder to work in, $work, which goes when the script ends, and how one fails.
# Sourced.

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# expect STATUS PATTERN COMMAND...: that exit status, one line on stderr that fits the pattern.
expect() {
    status=0 wanted=$1 pattern=$2
    shift 2
    "$@" > "$work/out" 2> "$work/err" || status=$?
    [ "$status" = "$wanted" ] || fail "$*: exit $status, expected $wanted: $(cat "$work/err")"
    [ "$(wc -l < "$work/err")" = 1 ] || fail "$*: not one line on stderr: $(cat "$work/err")"
    grep -q -e "^nibble: .*$pattern" "$work/err" || fail "$*: $(cat "$work/err") (expected: $pattern)"
}
