#!/bin/sh
# test_cli_help.sh NIBBLE SOURCE_DIR: help, version, usage errors; the reference pages are what the tables say.
set -eu
nibble=$1 source=$2
# shellcheck source=tests/script.sh
. "$source/tests/script.sh"

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
    ! sed '1,/^Options:/d' "$work/one" | grep '.\{121\}' || fail "help $command has lines of more than 120 letters"
done

expect 2 "unknown command 'hlep'; did you mean 'help'?" "$nibble" hlep
expect 2 "unknown command 'zzzzzzzz'; 'nibble help' lists them" "$nibble" zzzzzzzz
expect 2 "no command is called 'recip'; did you mean 'recipe'?" "$nibble" help recip
expect 2 "no command is called 'zzzzzzzz'; hint: nibble help lists them" "$nibble" help zzzzzzzz
expect 2 "expected run, recipe, model or machine, found 'modl'; did you mean 'model'?" "$nibble" help --keys modl
expect 2 "unknown option --marckdown; did you mean --markdown?" "$nibble" help --marckdown run
expect 2 "--keys needs a value" "$nibble" help --keys
expect 2 "'b' is one argument too many" "$nibble" help a b
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
