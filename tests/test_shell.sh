#!/bin/sh
# Completion and man pages follow what the program says of itself.   usage: test_shell.sh NIBBLE SOURCE_DIR
set -eu
nibble=$1 source=$2
# shellcheck source=tests/script.sh
. "$source/tests/script.sh"

offered() { # WORD...: what is offered for the last of them
    bash -c '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _nibble; printf "%s\n" "${COMPREPLY[@]}"' \
        - "$source/scripts/completion.bash" "$nibble" "$@" 2> "$work/errors"
}

offers() { # WANTED WORD...
    wanted=$1
    shift
    offered "$@" | grep -qx -- "$wanted" || fail "'$*' does not offer $wanted: $(offered "$@" | tr '\n' ' ') $(cat "$work/errors")"
}

if command -v bash > /dev/null; then
    offers train tr
    offers --resume train --res
    offers optimizer.lr= train run.yaml --set optimizer.l
    offers chon compare run.yaml --recipes ch
    offers show recipe sh
    offers quantize help qu
    # Every option that a help shows in its table is offered, for every command.
    for command in $(offered ""); do
        "$nibble" help "$command" | sed -n 's/^  .*\(--[a-z][a-z-]*\) .*/\1/p' | grep -v 'bench ' | while read -r option; do
            offered "$command" - | grep -qx -- "$option" || fail "$command does not offer $option"
        done
    done
    [ -z "$(offered train --no-such)" ] || fail "an option that is not there is offered"
fi

"$source/scripts/man-pages" "$nibble" "$work/man"
pages=$(find "$work/man" -name '*.1' | wc -l)
commands=$("$nibble" help | grep -c '^  [a-z]')
[ "$pages" = $((commands + 1)) ] || fail "$pages pages for $commands commands"
grep -q '^\.B quantize$' "$work/man/nibble.1" || fail "nibble.1: $(cat "$work/man/nibble.1")"
grep -q 'Usage: nibble quantize IN.npy' "$work/man/nibble-quantize.1" || fail "nibble-quantize.1 has no usage"
if command -v man > /dev/null && command -v groff > /dev/null; then
    for page in "$work"/man/*.1; do
        said=$(man --warnings -l "$page" 2>&1 > /dev/null) || fail "$page: man fails"
        [ -z "$said" ] || fail "$page: $said"
    done
fi
echo "completion and $pages man pages as the program says"
