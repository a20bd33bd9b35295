#!/bin/sh
# test_cli_help.sh NIBBLE SOURCE_DIR: help, version, usage errors; the reference pages are what the tables say.
set -eu
nibble=$1 source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

expect_usage_error() { # PATTERN COMMAND...
    pattern=$1 status=0
    shift
    "$@" > "$work/out" 2> "$work/err" || status=$?
    [ "$status" = 2 ] || fail "$*: exit $status, expected 2"
    [ "$(wc -l < "$work/err")" = 1 ] || fail "$*: more than one line on stderr"
    grep -q -e "^nibble: .*$pattern" "$work/err" || fail "$*: $(cat "$work/err") (expected: $pattern)"
}

"$nibble" --version | grep -q '^nibble [0-9]' || fail "--version"
"$nibble" help > "$work/help"
"$nibble" | cmp - "$work/help" || fail "'nibble' alone is not 'nibble help'"
"$nibble" --help | cmp - "$work/help" || fail "--help is not 'nibble help'"

# Every command that is listed explains itself, the same by both ways.
commands=$(sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' "$work/help")
[ -n "$commands" ] || fail "help lists no commands"
for command in $commands; do
    "$nibble" help "$command" > "$work/one"
    grep -q "^Usage: nibble $command" "$work/one" || fail "help $command"
    "$nibble" "$command" --help | cmp - "$work/one" || fail "$command --help is not help $command"
done

expect_usage_error "unknown command 'hlep'; did you mean 'help'?" "$nibble" hlep
expect_usage_error "unknown command 'zzzzzzzz'; 'nibble help' lists them" "$nibble" zzzzzzzz
expect_usage_error "no command is called 'recip'; did you mean 'recipe'?" "$nibble" help recip
expect_usage_error "no command is called 'zzzzzzzz'; hint: nibble help lists them" "$nibble" help zzzzzzzz
expect_usage_error "expected run, recipe, model or machine, found 'modl'; did you mean 'model'?" "$nibble" help --keys modl
expect_usage_error "unknown option --marckdown; did you mean --markdown?" "$nibble" help --marckdown run
expect_usage_error "--keys needs a value" "$nibble" help --keys
expect_usage_error "'b' is one argument too many" "$nibble" help a b
[ -c /dev/full ] && { "$nibble" help > /dev/full 2> "$work/err" && fail "a full disk went unnoticed"; grep -q "standard output" "$work/err"; }

for bench in $("$nibble" bench | sed -n 's/^  \([a-z]*\)  .*/\1/p'); do
    "$nibble" bench "$bench" --help | head -1 | grep -q "^Usage: nibble bench $bench [[R]" ||
        fail "bench $bench --help: $("$nibble" bench "$bench" --help | head -1)"
    "$nibble" help bench "$bench" > "$work/one" || fail "help bench $bench"
    "$nibble" bench "$bench" --help | cmp - "$work/one" || fail "help bench $bench is not bench $bench --help"
done

for kind in run recipe model machine; do
    "$nibble" help --keys "$kind" | grep -q "^Keys of the $kind file" || fail "help --keys $kind"
    "$nibble" help --markdown "$kind" > "$work/page"
    cmp "$work/page" "$source/docs/$kind-file.md" ||
        fail "docs/$kind-file.md is not what the table says; write it anew: nibble help --markdown $kind > docs/$kind-file.md"
done
