#!/bin/sh
# late.sh PAPER: what four bits cost a model that has learnt something, on two cores in an hour or two.
#
# One model is trained in BF16 at a constant learning rate; then every recipe of the paper anneals it, three seeds of
# data each. Twins from one checkpoint end near each other, so gaps of a tenth of a per cent show where twins from step 0
# scatter by a whole one. Give it again to go on where it stopped. Tokens: ./demo.sh --quick.
#
# SEEDS=7 trains so many; RECIPES=a,b anneals the same model under these in place of the paper's, into a folder of its own;
# what follows the paper goes to the anneals: --set steps=1600 --set schedule.decay=400.
#
# Usage: examples/papers/late.sh fp4-dge-occ | tetrajet-v2 | chon-gla | chon-qwen3 [--set key=value ...]
set -eu
paper=${1:?usage: examples/papers/late.sh fp4-dge-occ, tetrajet-v2, chon-gla or chon-qwen3}
shift
cd "$(dirname "$0")/../.."
nibble=${NIBBLE:-build/nibble}
lens=
case $paper in
    fp4-dge-occ) fork=1440 steps=1600 recipes=fp4-direct,fp4-dge,fp4-occ,fp4-dge-occ-f32,fp4-dge-occ ;;
    chon-gla) fork=1440 steps=1600 recipes=nvfp4,chon,chon-hcp-only,chon-protect-only ;;
    chon-qwen3) fork=1200 steps=1360 recipes=nvfp4,chon,chon-hcp-only,chon-protect-only ;;
    tetrajet-v2)
        fork=1200 steps=1400 lens="--set lens.every=16 --set lens.window=10"
        late=examples/recipes/tetrajet-v2
        recipes=nvfp4,tetrajet-v2-base,$late-outcontrol-late.yaml,$late-oscireset-late.yaml,$late-late.yaml
        for how in scaled flips published; do recipes=$recipes,$late-oscireset-late-$how.yaml; done
        recipes=$recipes,$late-outcontrol-late-tenth.yaml,$late-late-published.yaml
        ;;
    *) echo "late.sh: unknown paper $paper" >&2; exit 2 ;;
esac
out=runs/late/$paper
arms=$out/arms
[ -z "${RECIPES:-}" ] || arms=$out/others
from=$out/prefix/checkpoints/step-$(printf %08d $fork)

run() { # command, arguments
    command=$1
    shift
    "$nibble" "$command" "examples/papers/$paper.yaml" --set micro_batch=2 --set threads=1 --set schedule.kind=wsd \
        --set schedule.warmup=80 --set schedule.min_ratio=0 --set eval.sequences=128 --set print_every=40 "$@"
}

# The first `fork` steps of a run that would never anneal are the model.
[ -d "$from" ] || run train --set recipe=bf16 --set steps=$fork --set schedule.decay=0 --set eval.every=0 \
    --set out="$out/prefix" --resume
# shellcheck disable=SC2086 # lens is a list of options
run compare --from "$from" --recipes "${RECIPES:-$recipes}" --seeds "${SEEDS:-3}" --set steps=$steps --set schedule.decay=$((steps - fork)) \
    --set eval.every=0 --set checkpoint.every=0 $lens --set out="$arms" "$@"
