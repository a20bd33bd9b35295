#!/bin/sh
# Ranks whose backend is cuda, over stubs of CUDA and NCCL that compute on the processor: gradients go by NCCL where it is
# to be had, through the host where it is not, and either ends in the bits of one process.
# Usage: test_ranks_gpu.sh NIBBLE SOURCE_DIR
# shellcheck disable=SC2016 # shells of ranks expand what stands in single quotes
set -eu
[ -n "${NIBBLE_TEST_PORTS-}" ] || exec "$(dirname "$1")/with_ports" 16 sh "$0" "$@"
built=$(dirname "$1")/plugin
source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cp "$1" nibble
cp -r "$source/recipes" "$source/models" .
cp "$built/libnibble-cuda-stub.so" libnibble-cuda.so
nibble=$work/nibble
# shellcheck source=tests/ranks.sh
. "$source/tests/ranks.sh"
put_files
put_hit
sed -i 's/^steps:.*/steps: 8/; s/^lens:.*/lens: {every: 0}/' run.yaml
echo 'backend: cuda' >> run.yaml
unset NIBBLE_STUB NIBBLE_STUB_NCCL
# Libraries that cannot be opened, before those that a machine may have.
mkdir none
: > none/libcuda.so.1
: > none/libnccl.so.2

fail() {
    echo "test_ranks_gpu: $1" >&2
    head -n 5 err.* >&2 || true
    exit 1
}

same() {
    numbers_of one > one.txt
    numbers_of "$2" > other.txt
    cmp -s one.txt other.txt || fail "$1"
}

for recipe in nvfp4 fp4-dge-occ; do
    awake $recipe
    rm -rf one two four host
    $limited "$nibble" train run.yaml --quiet --set out=one > out.txt 2> err.0 || fail "$recipe: one process"
    over_tcp 2 env LD_LIBRARY_PATH="$work/none:$built/fake" "$nibble" train run.yaml --set out=host || fail "$recipe: through the host"
    grep -q "warning: gradients of other ranks go through the host's memory: .*libcuda.so.1\|.*libnccl.so.2" err.0 ||
        fail "$recipe: the way through the host is not said"
    same "$recipe: two ranks through the host end in other bits" host
    export LD_LIBRARY_PATH="$built/fake"
    over_tcp 2 "$nibble" train run.yaml --set out=two || fail "$recipe: two ranks by NCCL"
    grep -q "gradients go from GPU to GPU by NCCL 2.27.3" out.0 || fail "$recipe: NCCL is not said"
    grep -q "GPUs of one machine read each other's gradients where they are" out.0 || fail "$recipe: neighbours are not said"
    [ "$(cat err.* | wc -l)" = 0 ] || fail "$recipe: a warning where NCCL is there"
    [ "$(find . -path './nccl-*' -type f | wc -l)" = 0 ] || fail "$recipe: letters that nobody read"
    same "$recipe: two ranks by NCCL end in other bits" two
    rm -rf two # a shell that does not say who is on one machine
    over_tcp 2 env -u LOCAL_RANK -u LOCAL_WORLD_SIZE "$nibble" train run.yaml --set out=two || fail "$recipe: two ranks without LOCAL_RANK"
    grep -q "GPUs of one machine read each other's gradients where they are" out.0 || fail "$recipe: a machine is not found"
    same "$recipe: two ranks without LOCAL_RANK end in other bits" two
    for apart in NIBBLE_NEIGHBOURS=0 NIBBLE_STUB=apart NIBBLE_STUB=mistaken NIBBLE_STUB=refused NIBBLE_STUB=half; do # and where GPUs do not reach each other
        rm -rf two
        over_tcp 2 env $apart "$nibble" train run.yaml --set out=two || fail "$recipe: two ranks by NCCL, $apart"
        ! grep -q "read each other's" out.0 || fail "$recipe: $apart, and neighbours are there"
        same "$recipe: two ranks by NCCL, $apart, end in other bits" two
        [ $recipe = nvfp4 ] || break
    done
    machine=2 over_tcp 4 "$nibble" train run.yaml --set out=four || fail "$recipe: four ranks by NCCL"
    same "$recipe: four ranks by NCCL end in other bits" four
    if [ $recipe = nvfp4 ]; then
        for share in moments gradients; do
            rm -rf shared
            over_tcp 2 "$nibble" train run.yaml --set out=shared --set share=$share || fail "$recipe: two ranks share $share"
            same "$recipe: two ranks that share $share out by NCCL end in other bits" shared
        done
        over_tcp 2 "$nibble" train run.yaml --set out=apart --set share=moments --set backend=cpu || fail "$recipe: two ranks of a CPU share moments"
        same "$recipe: two ranks of a CPU that share moments out end in other bits" apart
        # A run that begins from a folder of another maker has its model made anew, and ranks find each other's memory anew.
        "$nibble" export one --type f32 -o foreign > out.txt || fail "export: $(cat out.txt)"
        mv one kept
        $limited "$nibble" train run.yaml --quiet --from foreign --set out=one > out.txt 2> err.0 || fail "one process from a foreign folder"
        over_tcp 2 "$nibble" train run.yaml --from foreign --set out=begun || fail "two ranks from a foreign folder"
        grep -q "GPUs of one machine read each other's gradients where they are" out.0 || fail "neighbours from a foreign folder"
        same "two ranks from a foreign folder end in other bits" begun
        rm -rf one && mv kept one
    fi
    unset LD_LIBRARY_PATH
done

# An embedding that is the head
cp model.yaml untied.yaml
sed -i '/^tied:/d' model.yaml
echo 'tied: true' >> model.yaml
awake nvfp4
rm -rf one two
$limited "$nibble" train run.yaml --quiet --set out=one > out.txt 2> err.0 || fail "tied: one process"
LD_LIBRARY_PATH="$built/fake" over_tcp 2 "$nibble" train run.yaml --set out=two || fail "tied: two ranks"
grep -q "GPUs of one machine read each other's gradients where they are" out.0 || fail "tied: neighbours are not said"
same "tied: two ranks end in other bits" two
mv untied.yaml model.yaml

# FP8-LM's exchange counts and scales there as on a CPU
printf 'base: fp4-msamp\nname: awake\ngradients: {exchange: {rule: fp8-lm, mu: 8, steps: 4}}\n' > awake.yaml
rm -rf one host two
over_tcp 2 "$nibble" train run.yaml --set out=one --set backend=cpu || fail "fp8-lm on a CPU"
over_tcp 2 "$nibble" train run.yaml --set out=host || fail "fp8-lm through the host"
same "fp8-lm through the host ends in other bits" host
LD_LIBRARY_PATH="$built/fake" over_tcp 2 "$nibble" train run.yaml --set out=two || fail "fp8-lm by NCCL"
same "fp8-lm by NCCL ends in other bits" two
awake fp4-dge-occ
rm -rf one
$limited "$nibble" train run.yaml --quiet --set out=one > out.txt 2> err.0 || fail "one process"

# two ranks of one GPU: NCCL says no to both, and they go through the host
export LD_LIBRARY_PATH="$built/fake"
NIBBLE_STUB_NCCL='join' over_tcp 2 "$nibble" train run.yaml --set out=joined || fail "NCCL that does not join"
grep -q "through the host's memory: ncclCommInitRank: invalid usage" err.0 || fail "NCCL that does not join is not said"
same "ranks that NCCL does not join end in other bits" joined

# a rank that dies: the other waits for it in NCCL no longer than its patience
sed 's/^steps:.*/steps: 1000000/; s/^checkpoint:.*/checkpoint: {every: 4, keep: 2}/' run.yaml > long.yaml
export NIBBLE_PATIENCE=3
over_tcp 2 sh hit.sh 1 KILL "$nibble" train long.yaml || true
[ "$status" = 1 ] || fail "rank 0 ended with $status where rank 1 died, expected 1"
[ "$(wc -l < err.0)" = 1 ] || fail "rank 1 died: $(wc -l < err.0) lines"
grep -Eq '^nibble: rank 0: (rank 1 of 2 is gone|nccl: an exchange has not ended after 3 s)' err.0 || fail "rank 1 died"

# a rank that dies while they join: the other says so once its patience is at its end
over_tcp 2 sh -c '[ "$RANK" = 1 ] && export NIBBLE_STUB_NCCL=die || export NIBBLE_STUB_NCCL=wait; exec "$@"' sh \
    "$nibble" train run.yaml --set out=lost || true
[ "$status" = 1 ] || fail "rank 0 ended with $status where rank 1 died in joining, expected 1"
[ "$(wc -l < err.0)" = 1 ] || fail "rank 1 died in joining: $(wc -l < err.0) lines"
grep -q '^nibble: rank 0: rank 1 of 2 is gone' err.0 || fail "rank 1 died in joining"

# all live and NCCL never comes back: they go through the host
rm -rf joined
NIBBLE_STUB_NCCL='wait' over_tcp 2 "$nibble" train run.yaml --set out=joined || fail "NCCL that does not come back"
grep -q "through the host's memory: ncclCommInitRank has waited for the other ranks for 3 s" err.0 ||
    fail "NCCL that does not come back is not said"
same "ranks whose NCCL does not come back end in other bits" joined
