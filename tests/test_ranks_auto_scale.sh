#!/bin/sh
# FP8-LM's exchange in a run (gradients.exchange.rule: fp8-lm): 2 and 4 ranks under mpirun sum under one scale, mu follows
# what saturates, is in the checkpoint, and a run that goes on ends in the bits of one that was never stopped.
# Usage: test_ranks_auto_scale.sh NIBBLE SOURCE_DIR
set -eu
[ -n "${NIBBLE_TEST_PORTS-}" ] || exec "$(dirname "$1")/with_ports" 16 sh "$0" "$@"
command -v mpirun > /dev/null || { echo "no mpirun on this machine"; exit 77; }
nibble=$1
source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# shellcheck source=tests/ranks.sh
. "$source/tests/ranks.sh"
put_files

fail() {
    echo "test_ranks_auto_scale: $1" >&2
    cat err.* >&2 || true
    exit 1
}

# train RANKS OUT [ARGUMENT...]
train() {
    ranks=$1 out=$2
    shift 2
    over_mpi "$ranks" "$nibble" train run.yaml --set out="$out" "$@" > "$out.txt" 2> err.0 || fail "$ranks ranks, $out"
}

same() {
    numbers_of "$1" > left.txt
    numbers_of "$2" > right.txt
    cmp -s left.txt right.txt
}

# factors FOLDER STEP FIRST LEAST_FALLS: every mu is FIRST, halved and raised STEP times in all; some at least LEAST_FALLS
# times. RISE steps double it.
factors() {
    command -v python3 > /dev/null || { echo "there is no python3: mu of $1 is not read"; return 0; }
    python3 - "$1/checkpoints/step-$(printf %08d "$2")/optimizer.safetensors" "$2" "$3" "$4" "$rise" << 'PYTHON' || fail "mu of $1 at step $2"
import json, math, struct, sys
path, steps, first, least, rise = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
data = open(path, "rb").read()
size, = struct.unpack_from("<Q", data)
at = json.loads(data[8:8 + size])["state/gradients.exchange.mu"]["data_offsets"]
mu = struct.unpack_from(f"<{(at[1] - at[0]) // 4}f", data, 8 + size + at[0])
all_falls = []
for factor in mu:
    moved = math.log2(factor / first)  # rises / rise - falls, rises + falls = steps
    falls = (steps / rise - moved) / (1 + 1 / rise)
    if abs(falls - round(falls)) > 1e-4 or not 0 <= round(falls) <= steps:
        sys.exit(f"mu {factor} is no number of halvings and rises of {first} in {steps} steps")
    all_falls.append(round(falls))
print("halvings:", all_falls)
if max(all_falls) < least or min(all_falls) == steps:
    sys.exit(f"expected {least} halvings somewhere, and a rise everywhere")
PYTHON
}

# A first mu of 8 plants what is too large: the largest numbers of each tensor are past the type's on every rank.
rise=4
printf 'base: fp4-msamp\nname: awake\ngradients: {exchange: {rule: fp8-lm, mu: 8, steps: %d}}\n' $rise > awake.yaml
train 2 two
grep -q "gradients of 2 ranks are added in e4m3 under one scale a tensor .*another number of ranks ends in other bits" two.txt ||
    fail "nothing was said about the exchange"
factors two 8 8 3
factors two 16 8 4
over_tcp 2 "$nibble" train run.yaml --set out=tcp || fail "two ranks over TCP"
same two tcp || fail "TCP ends in other bits than MPI"
cp -r two again
rm -r again/checkpoints/step-00000016
train 2 again --resume
same two again || fail "a run that went on ends in other bits"
train 4 four
factors four 16 8 4
! same two four || fail "four ranks end in the bits of two, though their sums are rounded otherwise"
train 4 shared --set share=moments
same four shared || fail "share: moments ends in other bits"
$limited "$nibble" train run.yaml --quiet --set out=one > one.txt 2> err.0 || fail "one process"
! same one two || fail "two ranks end in the bits of one process"
cp -r two on # to another number of ranks mu goes along
rm -r on/checkpoints/step-00000016
train 4 on --resume
factors on 16 8 3

# From where the authors' code begins, 1/sqrt(ranks).
printf 'base: fp4-msamp\nname: awake\ngradients: {exchange: {rule: fp8-lm}}\n' > awake.yaml
rise=1000
train 4 root
factors root 16 0.5 1

# By itself one process sums as ever.
printf 'base: fp4-msamp\nname: awake\n' > awake.yaml
$limited "$nibble" train run.yaml --quiet --set out=own > own.txt 2> err.0 || fail "one process of rule own"
cmp one/checkpoints/step-00000016/model.safetensors own/checkpoints/step-00000016/model.safetensors ||
    fail "one process ends in other bits under fp8-lm"
