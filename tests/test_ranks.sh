#!/bin/sh
# Many processes, one result: 1, 2 and 4 ranks end in the same bits, also where a run goes on with another number, and
# whether each has all moments (two ranks here) or they share them out (four; not under qramping, which refuses that).
# Usage: test_ranks.sh NIBBLE SOURCE_DIR [RECIPE...]
set -eu
[ -n "${NIBBLE_TEST_PORTS-}" ] || exec "$(dirname "$1")/with_ports" 16 sh "$0" "$@"
nibble=$1
source=$2
shift 2
[ $# -gt 0 ] || set -- nvfp4 chon tetrajet-v2 tetrajet-v1-ramping fp4-dge-occ
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# shellcheck source=tests/ranks.sh
. "$source/tests/ranks.sh"
put_files

fail() {
    echo "test_ranks: $1" >&2
    cat err.* >&2 || true
    exit 1
}

same() {
    numbers_of one > one.txt
    numbers_of "$2" > other.txt
    cmp -s one.txt other.txt || { diff one.txt other.txt | head -n 5 >&2; fail "$recipe: $1"; }
}

# No shipped recipe rounds W at random: one more that does, whose bits are of a micro-batch too. Nor has one delayed scales,
# which micro-batch 0 makes for all, nor a look of rank 0 at drowned gradients, which sends the backward pass of all to BF16.
for recipe in "$@" random-w delayed drowned; do
    if [ "$recipe" = random-w ]; then
        printf 'base: nvfp4\nname: awake\nfprop: {w: {round: stochastic, sr_bits: 16}}\n' > awake.yaml
    elif [ "$recipe" = delayed ]; then
        printf 'base: fp4-msamp\nname: awake\ndelayed: {window: 3}\n' > awake.yaml
    elif [ "$recipe" = drowned ]; then
        printf 'base: nvfp4\nname: awake\nlate_switch: {rho: 1e6, every: 2}\n' > awake.yaml
    else
        awake "$recipe"
    fi
    share=moments
    if [ "$recipe" = tetrajet-v1-ramping ]; then share=none; fi
    rm -rf one two four mixed
    $limited "$nibble" train run.yaml --quiet --set out=one > out.txt 2> err.0 || fail "$recipe: one process"
    over_tcp 2 "$nibble" train run.yaml --set out=two || fail "$recipe: two ranks"
    [ "$(cat out.1 err.1 | wc -c)" = 0 ] || fail "$recipe: rank 1 printed"
    same "two ranks end in other bits" two
    machine=2 over_tcp 4 "$nibble" train run.yaml --set out=four --set share=$share || fail "$recipe: four ranks"
    same "four ranks end in other bits" four
    cp -r two mixed # two ranks until step 8, then four
    rm -r mixed/checkpoints/step-00000016
    over_tcp 4 "$nibble" train run.yaml --set out=mixed --set share=$share --resume || fail "$recipe: two ranks, then four"
    same "two ranks and then four end in other bits" mixed
    rm -r mixed/checkpoints/step-00000016 # what four shared out one reads
    $limited "$nibble" train run.yaml --quiet --set out=mixed --resume > out.txt 2> err.0 || fail "$recipe: then one"
    same "two ranks and then one process end in other bits" mixed
done
