#!/bin/sh
# Faults of a GPU, of its library and of its memory: one line each, exit status 1, checkpoints whole.
# Usage: test_plugin.sh NIBBLE SOURCE_DIR
set -eu
stub=$(dirname "$1")/plugin/libnibble-cuda-stub.so
source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$1" "$work/nibble"
cp -r "$source/recipes" "$work"
cd "$work"
unset NIBBLE_STUB

cat > model.yaml << 'MODEL'
name: small
family: llama
vocab: 512
hidden: 32
layers: 2
heads: 2
kv_heads: 1
head_dim: 16
intermediate: 64
max_seq: 32
MODEL
i=0
while [ $i -lt 200 ]; do
    echo "line $i of a text that says little, and says it $((i * 7 % 31)) times"
    i=$((i + 1))
done > text.txt
./nibble tokenize text.txt --tokenizer bytes --split line -o tokens > /dev/null
cat > run.yaml << 'RUN'
model: model.yaml
recipe: recipes/nvfp4.yaml
out: out
data: {train: "tokens/train_*.bin", tokenizer: bytes}
steps: 6
seq: 16
micro_batch: 2
checkpoint: {every: 2, keep: 0}
lens: {every: 0}
peak_flops: none
backend: cuda
RUN

fail() {
    echo "test_plugin: $1" >&2
    cat err >&2
    exit 1
}

# one_line WHAT PATTERN COMMAND...: exit status 1 and one line on stderr that says so.
one_line() {
    what=$1 pattern=$2 status=0
    shift 2
    "$@" > out.txt 2> err || status=$?
    [ $status = 1 ] || fail "$what: exit status $status, expected 1"
    [ "$(wc -l < err)" = 1 ] || fail "$what: $(wc -l < err) lines on stderr, expected 1"
    grep -qE "$pattern" err || fail "$what: expected $pattern"
}

train() {
    ./nibble train run.yaml --quiet "$@"
}

sums() {
    cat out/checkpoints/step-00000006/model.safetensors out/checkpoints/step-00000006/optimizer.safetensors | cksum
}

# ---- no library, one that cannot be loaded, one of another version, no driver, no such GPU ----
one_line "no library" 'there is no libnibble-cuda.so beside the program; hint: ' train
one_line "no library, asked for" 'there is no libnibble-cuda.so' ./nibble info --backend cuda
./nibble info | grep -q '^cuda  *not here: there is no libnibble-cuda.so' || fail "info without a library"
echo "no library" > libnibble-cuda.so
one_line "a text" 'libnibble-cuda.so cannot be opened: .*; hint: ' train
cp "$stub" libnibble-cuda.so
NIBBLE_STUB=version one_line "another version" 'of another version than this program; hint: make cuda' train
NIBBLE_STUB=driver one_line "no driver" 'no NVIDIA driver; hint: backend: cpu' train
one_line "no such key" 'native_fp4: backend cuda has no units' train --set native_fp4=true
./nibble info | grep -q '^cuda  *GPU 0 of 1: Stub of a GPU, compute capability 9.0' || fail "info with a GPU"
./nibble info --backend cuda | grep -q 'driver for CUDA 13.0, built with CUDA 13.0, cuBLASLt 13.0.1' || fail "versions"
./nibble info | grep -q '^  *cuDNN none (no libcudnn.so.9 on the path of libraries): attention is our own' || fail "info without cuDNN"
NIBBLE_STUB=cudnn:91900 ./nibble info | grep -q '^  *cuDNN 9.19.0: attention where a run says deterministic: false' || fail "info with cuDNN"

# ---- memory ----
for n in 1 3 9; do
    NIBBLE_STUB=alloc:$n one_line "allocation $n" \
        'no memory for .*[0-9].*; hint: recompute: mlp or block, micro_batch: 1 with accumulation: 2, head_rows' train
    rm -rf out
done

# What would have fit, by plan.
needs() { # KEYS...: bytes of the plan, about
    ./nibble plan run.yaml --set micro_batch=512 "$@" | awk '/total, beside program/ { unit = $NF == "MiB" ? 1048576 : $NF == "KiB" ? 1024 : 0; printf "%d", $(NF - 1) * unit }'
}
kept=$(needs) remade=$(needs --set recompute=block)
[ "$remade" -lt "$kept" ] || fail "recompute: block takes $remade bytes by plan, expected less than $kept"
NIBBLE_STUB=alloc:3 one_line "memory that others have" 'by plan the run takes .* of 3.00 GiB: the rest is taken, or kept from this process' train --set micro_batch=512
NIBBLE_STUB=alloc:3,bytes:$((remade * 106 / 100)) one_line "memory for less" \
    'by plan the run takes .* of .*, and .* with recompute: (mlp|block)' train --set micro_batch=512 --set memory_check=false
NIBBLE_STUB=alloc:1 ./nibble train run.yaml --set recipe=recipes/bf16.yaml > out.txt 2> err && fail "a run without memory"
[ "$(grep -cE '^memory$|^  parameters \(f32\)  |^  total  ' out.txt)" = 3 ] || fail "the memory table of a run without memory"
NIBBLE_STUB=alloc:3,bytes:1000 one_line "memory for nothing" 'by plan the run takes .* of .*, and .* at least$' train --set micro_batch=512 --set memory_check=false

# A run that does not fit what is left of the GPU ends before its first allocation, with its memory table, and says what
# would fit; within 5 % of its plan it begins, as it does where nobody shall look.
table() { # its rows that every run has
    grep -cE '^memory$|^  parameters \(f32\)  |^  total  ' out.txt || true
}
for there in "left:$((kept * 90 / 100))" "alloc:1,bytes:$((kept * 90 / 100))"; do
    NIBBLE_STUB=$there one_line "no room: $there" \
        '^nibble: cuda: no room for the run: by plan it takes .*, and .* of .* are left; .* with recompute: (mlp|block)[^;]*; hint: memory_check: false' \
        ./nibble train run.yaml --set micro_batch=512
    [ "$(table)" = 3 ] || fail "the memory table of a run without room"
    [ ! -e out ] || fail "a run without room left a folder"
done
NIBBLE_STUB=left:1000 one_line "no room at all" 'and 1.0 KiB of 3.00 GiB are left; .* at least, whatever the keys; hint: ' train
NIBBLE_STUB=left:$((kept * 97 / 100)) train --set micro_batch=512 --set steps=1 > out.txt 2> err || fail "within 5 % of the plan"
rm -rf out
NIBBLE_STUB=left:1000 ./nibble train run.yaml --set memory_check=false --set steps=1 > out.txt 2> err || fail "memory_check: false"
[ "$(table)" = 3 ] || fail "the memory table of a run that nobody looks at"
rm -rf out

# ---- a GPU that is lost, in steps and in checkpoints ----
train > out.txt 2> err || fail "a run without a fault"
want=$(sums)
grep -q fp32_rows out/metrics.jsonl && fail "rows in FP32 where there are none"
for n in 1 2 3 4 5 6 7 8 9 10 11; do
    rm -rf out
    NIBBLE_STUB=lost:$n one_line "lost at $n" 'is lost' train
    found=$(find out/checkpoints -maxdepth 1 -name 'step-0*' ! -name '*.tmp*' 2> /dev/null | wc -l)
    resume=--resume
    [ "$found" -gt 0 ] || { resume='' && rm -rf out; }
    # shellcheck disable=SC2086 # one word or none
    train $resume > out.txt 2> err || fail "after lost at $n, with $found checkpoints"
    [ "$(sums)" = "$want" ] || fail "lost at $n, then resumed with $found checkpoints: other bits"
done

# ---- kernels that a library chose shape by shape: in every checkpoint, taken again on resume, or it is said ----
rm -rf out
NIBBLE_STUB=choices train > out.txt 2> err || fail "a run with chosen kernels"
for step in 2 4 6; do
    grep -qF '32 x 32 x 64: kernel 3, split \"k\"' out/checkpoints/step-0000000$step/nibble.json || fail "chosen kernels of step $step"
done
rm -r out/checkpoints/step-00000006
NIBBLE_STUB=choices ./nibble train run.yaml --resume > out.txt 2>&1 || fail "chosen kernels taken again"
grep -q 'not to the bit' out.txt && fail "chosen kernels taken again, and said to be others"
[ "$(sums)" = "$want" ] || fail "chosen kernels taken again: other bits"
rm -r out/checkpoints/step-00000006
./nibble train run.yaml --resume > out.txt 2>&1 || fail "chosen kernels that are not there"
[ "$(grep -c 'chosen shape by shape by a library for GPUs.*not to the bit' out.txt)" = 1 ] || fail "chosen kernels that are not there are told once"

# ---- rows that FP8 units do not hold: said once, counted at every step ----
rm -rf out
NIBBLE_STUB=mended:7 ./nibble train run.yaml > out.txt 2>&1 || fail "a run with rows in FP32"
[ "$(grep -c 'step 1: 7 rows of operands' out.txt)" = 1 ] || fail "rows in FP32 are told once"
[ "$(grep -c '"fp32_rows":7[,}]' out/metrics.jsonl)" = 6 ] || fail "rows in FP32 are counted at each of 6 steps"

# ---- a NaN in an operand: the layer and the role where it came in ----
cp "$(dirname "$stub")/libnibble-cuda-breaker.so" libnibble-cuda.so
NIBBLE_REAL=$stub
export NIBBLE_REAL
for recipe in bf16 nvfp4; do
    rm -rf out
    NIBBLE_POISON=forward one_line "a NaN forward, $recipe" 'step 1: loss is nan, first in layers.1.mlp.inner fprop.x; ' \
        train --set recipe=recipes/$recipe.yaml --set model.layers=3
    rm -rf out
    NIBBLE_POISON=backward one_line "a NaN backward, $recipe" \
        'step 1: gradient norm is nan, first in layers.1.mlp.gate_proj dgrad.dy; ' \
        train --set recipe=recipes/$recipe.yaml --set model.layers=3
done
