#!/bin/sh
# late-gpu.sh PAPER: late.sh on a GPU, with 55M parameters and settings that exercise the method: CHON chooses its
# channels 20 times in the anneal, OutControl puts a true tenth of them (51 of 512) into MXFP8 as the paper's runs do,
# and OsciReset has the published window of 50 steps, and a window of 10 with and without its threshold
# scaled; the lens measures R of every arm in two blocks, over the windows of 50 steps that end where OsciReset
# resets. tetrajet-v2-bias: the base with the biased gradients of the released code, each cause alone, and to nearest.
#
# chon: gated linear attention; chon-qwen3: softmax attention. nvfp4: the parts of NVIDIA's recipe taken away one at a time, nothing
# kept; nvfp4-kept: blocks kept in BF16, one at a time and as many as the recipe keeps. fp4-dge-occ, fp4-w4a8, fp4-w8a4, fp4-coarse:
# figure 6 of arXiv:2501.17116, its dialects in fp4-dialects, its gradients and moments beside BF16 operands in narrow.
# neighbours: other recipes, every block in four bits.
#
# Usage: examples/papers/late-gpu.sh chon | chon-qwen3 | tetrajet-v2 | tetrajet-v2-bias | nvfp4 | nvfp4-kept | neighbours |
#     fp4-dge-occ | fp4-w4a8 | fp4-w8a4 | fp4-coarse | fp4-dialects | narrow
# Tokens: data/books. Give it again to go on. Papers of one model share its first steps and its BF16 twins.
# Three seeds one after the other; SEED=2 trains the second alone, into arms-seed2, so that several can run at once.
# RECIPES=A,B trains those arms alone.
set -euf # no word is a pattern of file names
paper=${1:?usage: examples/papers/late-gpu.sh PAPER, as chon or tetrajet-v2}
cd "$(dirname "$0")/../.."
nibble=${NIBBLE:-build/nibble}
fork=2000 steps=2400 ours=examples/recipes late=examples/recipes/late-60m
model=llama-60m lens="--set lens.every=0"
case $paper in
    chon | chon-qwen3)
        model=gla-60m lens="--set lens.every=100 --set lens.window=0"
        [ "$paper" = chon ] || model=qwen3-60m
        recipes=nvfp4,$late-chon.yaml,$late-chon-normalized.yaml,$late-chon-hcp-only.yaml,chon-protect-only
        ;;
    nvfp4)
        recipes=
        for part in all no-rht no-sr 1d forward backward; do recipes=$recipes,$ours/nvfp4-$part.yaml; done
        ;;
    fp4-dge-occ) recipes=fp4-direct,fp4-dge,fp4-occ,fp4-dge-occ-f32,fp4-dge-occ ;;
    fp4-w4a8)
        recipes=$ours/fp4-w4a8.yaml
        for k in 3 5 10; do recipes=$recipes,$ours/fp4-w4a8-dge-k$k.yaml; done
        ;;
    fp4-w8a4)
        recipes=$ours/fp4-w8a4.yaml
        for alpha in 999 99 97; do recipes=$recipes,$ours/fp4-w8a4-occ-$alpha.yaml; done
        ;;
    fp4-dialects) recipes=fp4-msamp,$ours/fp4-msamp-sparse.yaml,fp4-fork ;;
    fp4-coarse) recipes=$ours/fp4-coarse.yaml,$ours/fp4-coarse-a.yaml,$ours/fp4-coarse-w.yaml ;;
    narrow)
        recipes=$ours/bf16-narrow.yaml
        for part in gradients moments m v; do recipes=$recipes,$ours/bf16-narrow-$part.yaml; done
        ;;
    nvfp4-kept)
        recipes=nvfp4,$ours/nvfp4-keep-first.yaml
        for block in 0 1 2 3 4 5 6 7; do recipes=$recipes,$ours/nvfp4-keep-$block.yaml; done
        ;;
    neighbours)
        recipes=$ours/four-over-six-all.yaml,quartet-2,quartet,tetrajet-v2-base,tetrajet-v1,mxfp4,mxfp4-wgrad-bf16,mxfp4-backward
        recipes=$recipes,hifloat4,averis,$late-chon-all.yaml
        ;;
    tetrajet-v2 | tetrajet-v2-bias)
        model=olmo2-60m lens="--set lens.every=64 --set lens.window=50 --set lens.modules=layers.[36].*"
        recipes=nvfp4,tetrajet-v2-base,$late-outcontrol.yaml,$late-oscireset.yaml,$late-tetrajet-v2.yaml
        recipes=$recipes,$late-oscireset-short.yaml,$late-oscireset-scaled.yaml
        [ "$paper" = tetrajet-v2 ] ||
            recipes=tetrajet-v2-base,$ours/tetrajet-v2-base-absmax.yaml,$ours/tetrajet-v2-base-shared.yaml,tetrajet-v2-released,$ours/tetrajet-v2-base-nearest.yaml
        ;;
    *) echo "late-gpu.sh: unknown paper $paper" >&2; exit 2 ;;
esac
out=runs/late-60m/$model
prefix=runs/late-60m/prefix-$model
from=$prefix/checkpoints/step-$(printf %08d $fork)

run() { # command, arguments
    command=$1
    shift
    "$nibble" "$command" examples/papers/late-60m.yaml --set model=$model --set peak_flops=none "$@"
}

[ -d "$from" ] ||
    run train --set steps=$fork --set schedule.decay=0 --set lens.every=0 --set out="$prefix" --resume
arms="--seeds ${SEEDS:-3} --set out=$out/arms"
[ -z "${SEED:-}" ] ||
    arms="--seeds 1 --set seeds.init=$SEED --set seeds.data=$SEED --set seeds.rounding=$SEED --set out=$out/arms-seed$SEED"
# shellcheck disable=SC2086 # lists of options
run compare --from "$from" --recipes "${RECIPES:-$recipes}" --set steps=$steps --set schedule.decay=$((steps - fork)) $lens $arms
