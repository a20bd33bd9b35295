#!/bin/sh
# Many processes, one result: 1, 2 and 4 ranks end in the same bits, also where a run goes on with another number, and
# whether each has everything (two ranks here), or they share out gradients and moments (four) or moments alone (where a run
# goes on with four; and where gradients are narrow). qramping refuses both.
# Usage: test_ranks.sh NIBBLE SOURCE_DIR [RECIPE...], which are all that is run then
set -eu
[ -n "${NIBBLE_TEST_PORTS-}" ] || exec "$(dirname "$1")/with_ports" 16 sh "$0" "$@"
nibble=$1
source=$2
shift 2
# No shipped recipe rounds W at random: one more that does, whose bits are of a micro-batch too. Nor has one delayed scales
# (delayed, outer), which micro-batch 0 makes for all, nor a look of rank 0 at drowned gradients, which sends the backward pass of all to BF16.
recipes=${*:-nvfp4 chon tetrajet-v2 tetrajet-v1-ramping fp4-dge-occ random-w delayed outer drowned}
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

# Run "four" has no watch over scales: its words are left out.
same() {
    numbers_of one > one.txt
    numbers_of "$2" > other.txt
    [ "$2" != four ] || sed -i '/"event":"\(bad scales\|no gradient\)"/d' one.txt other.txt
    cmp -s one.txt other.txt || { diff one.txt other.txt | head -n 5 >&2; fail "$recipe: $1"; }
}

# Nobody looks at masters: rank 0 lacks those of others too.
unseen="--set lens.every=0 --set bad_numbers.scales_every=0"

for recipe in $recipes; do
    if [ "$recipe" = random-w ]; then
        printf 'base: nvfp4\nname: awake\nfprop: {w: {round: stochastic, sr_bits: 16}}\n' > awake.yaml
    elif [ "$recipe" = delayed ]; then
        printf 'base: fp4-msamp\nname: awake\ndelayed: {window: 3}\n' > awake.yaml
    elif [ "$recipe" = outer ]; then
        sed 's/^name: .*/name: awake/' "$source/examples/recipes/nvfp4-delayed.yaml" > awake.yaml
    elif [ "$recipe" = drowned ]; then
        printf 'base: nvfp4\nname: awake\nlate_switch: {rho: 1e6, every: 2}\n' > awake.yaml
    else
        awake "$recipe"
    fi
    share=moments most=gradients
    "$nibble" recipe show awake.yaml | grep -A 1 '^gradients:' | grep -q 'format: fp32' || most=moments
    if [ "$recipe" = tetrajet-v1-ramping ]; then share=none most=none; fi
    rm -rf one two four mixed
    $limited "$nibble" train run.yaml --quiet --set out=one > out.txt 2> err.0 || fail "$recipe: one process"
    over_tcp 2 "$nibble" train run.yaml --set out=two || fail "$recipe: two ranks"
    [ "$(cat out.1 err.1 | wc -c)" = 0 ] || fail "$recipe: rank 1 printed"
    same "two ranks end in other bits" two
    machine=2 over_tcp 4 "$nibble" train run.yaml --set out=four --set share=$most $unseen || fail "$recipe: four ranks"
    same "four ranks end in other bits" four
    [ $recipe != fp4-dge-occ ] || grep -q "for gradients behind its backward pass" out.0 || fail "narrow gradients are not summed behind the pass"
    [ $recipe != nvfp4 ] || grep -q "masters of own linear layers (f32)" out.0 || fail "rank 0 has masters of others"
    cp -r two mixed # two ranks until step 8, then four
    rm -r mixed/checkpoints/step-00000016
    over_tcp 4 "$nibble" train run.yaml --set out=mixed --set share=$share --resume || fail "$recipe: two ranks, then four"
    same "two ranks and then four end in other bits" mixed
    rm -r mixed/checkpoints/step-00000016 # what four shared out one reads
    $limited "$nibble" train run.yaml --quiet --set out=mixed --resume > out.txt 2> err.0 || fail "$recipe: then one"
    same "two ranks and then one process end in other bits" mixed
done
[ $# = 0 ] || exit 0

# Two micro-batches a rank, whose sub-sums gradients that are shared out go through; and an embedding that is the head.
sed -i '/^tied:/d' model.yaml
echo 'tied: true' >> model.yaml
awake nvfp4
rm -rf one two
$limited "$nibble" train run.yaml --quiet --set out=one > out.txt 2> err.0 || fail "tied: one process"
over_tcp 2 "$nibble" train run.yaml --set out=two --set share=gradients || fail "tied: two ranks"
recipe=tied
same "two ranks that share gradients out end in other bits" two
grep -q "gradients of own sections (f32)" out.0 || fail "the memory table does not say what a rank has of gradients"
grep -q "gradients on their way to their ranks (f32)" out.0 || fail "sections do not go behind the backward pass"
grep -q "weights go to other ranks: .* as codes of 0.56" out.0 || fail "weights do not go as codes"
grep -q "rank 0 has all masters, because a lens" out.0 || fail "rank 0 does not say that it has all masters"
cmp one/lens/series.nbs two/lens/series.nbs || fail "the lens of two ranks that share masters out sees other numbers"
over_tcp 2 "$nibble" train run.yaml --set out=whole || fail "tied: two ranks that have everything"
same "two ranks with two micro-batches each end in other bits" whole
machine=2 over_tcp 4 "$nibble" train run.yaml --set out=alone || fail "tied: four ranks that have everything"
same "four ranks with one micro-batch each end in other bits" alone
# Scales that do not fit send a block to BF16: a model is made anew, and who has which masters with it.
rm -rf one two
bad="--set bad_numbers.scales=bad --set bad_numbers.scales_limit=0.001 --set bad_numbers.scales_every=3 --set bad_numbers.policy=bf16"
bad="$bad --set bad_numbers.bf16_modules=[layers.0.*] --set optimizer.lr=3e-2"
$limited "$nibble" train run.yaml --quiet --set out=one $bad > out.txt 2> err.0 || fail "bad scales: one process"
grep -q "policy bf16: on from step" err.0 || fail "scales that do not fit are not found"
over_tcp 2 "$nibble" train run.yaml --set out=two --set share=gradients $bad || fail "bad scales: two ranks"
same "two ranks that make a model anew end in other bits" two
awake fp4-dge-occ
! over_tcp 2 "$nibble" train run.yaml --set out=narrow --set share=gradients || fail "narrow gradients are shared out"
grep -q "share: gradients: recipe awake keeps them in e4m3; expected fp32; hint: share: moments" err.0 || fail "what is refused is not said"

# nGPT brings its weights back to length 1 after every step: whole tensors, whoever has their moments.
rm -r tokens
put_files
sed -i 's/^family: .*/family: ngpt/' model.yaml
awake nvfp4-ngpt
recipe=ngpt
rm -rf one two four
$limited "$nibble" train run.yaml --quiet --set out=one > out.txt 2> err.0 || fail "ngpt: one process"
over_tcp 2 "$nibble" train run.yaml --set out=two --set share=moments || fail "ngpt: two ranks"
same "two ranks end in other bits" two
over_tcp 4 "$nibble" train run.yaml --set out=four --set share=gradients || fail "ngpt: four ranks"
same "four ranks end in other bits" four
