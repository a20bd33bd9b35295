#!/bin/sh
# late-gpu.sh PAPER: late.sh on a GPU, with 60M parameters and settings that exercise the method: CHON chooses its
# channels 20 times in the anneal, OutControl takes 128 of 512 channels as the released 70M run does, and OsciReset has
# the published window of 50 steps, and a window of 10 with and without its threshold scaled.
#
# Usage: examples/papers/late-gpu.sh chon | tetrajet-v2        Tokens: data/books. Give it again to go on.
set -eu
paper=${1:?usage: examples/papers/late-gpu.sh chon or tetrajet-v2}
cd "$(dirname "$0")/../.."
nibble=${NIBBLE:-build/nibble}
fork=2000 steps=2400 late=examples/recipes/late-60m
case $paper in
    chon)
        model=gla-60m
        recipes=nvfp4,$late-chon.yaml,$late-chon-normalized.yaml,$late-chon-hcp-only.yaml,chon-protect-only
        ;;
    tetrajet-v2)
        model=llama-60m
        recipes=nvfp4,tetrajet-v2-base,$late-outcontrol.yaml,$late-oscireset.yaml,$late-oscireset-short.yaml
        recipes=$recipes,$late-oscireset-scaled.yaml
        ;;
    *) echo "late-gpu.sh: unknown paper $paper" >&2; exit 2 ;;
esac
out=runs/late-60m/$paper
from=$out/prefix/checkpoints/step-$(printf %08d $fork)

run() { # command, arguments
    command=$1
    shift
    "$nibble" "$command" examples/papers/late-60m.yaml --set model=$model "$@"
}

[ -d "$from" ] || run train --set steps=$fork --set schedule.decay=0 --set out="$out/prefix" --resume
run compare --from "$from" --recipes "$recipes" --seeds "${SEEDS:-3}" --set steps=$steps \
    --set schedule.decay=$((steps - fork)) --set lens.every=50 --set lens.window=49 --set out="$out/arms"
