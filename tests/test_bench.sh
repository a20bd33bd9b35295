#!/bin/sh
# test_bench.sh NIBBLE SOURCE_DIR: the benchmarks check, measure and print; info says what will run; bad input is refused.
nibble=$1
fail() {
    echo "FAIL: $*"
    exit 1
}
has() { # has TEXT PATTERN
    printf '%s\n' "$1" | grep -q -- "$2" || fail "no '$2' in: $1"
}
for bench in gemm quantize ops lens train; do # help begins as the command is typed, and says its name once
    head=$("$nibble" bench $bench --help | head -n 1)
    case $head in
    *"$bench $bench"*) fail "its name twice: $head" ;;
    "Usage: nibble bench $bench "*) ;;
    *) fail "not as it is typed: $head" ;;
    esac
done
refused() { # refused STATUS PATTERN ARGS...
    want=$1 pattern=$2
    shift 2
    out=$("$nibble" "$@" 2>&1)
    got=$?
    [ $got -eq "$want" ] || fail "nibble $*: exit status $got, expected $want"
    has "$out" "$pattern"
}

for isa in $("$nibble" info | sed -n 's/^runs *\([a-z0-9 ]*\).*/\1/p') scalar; do
    out=$("$nibble" bench gemm --shape 33x40x32 --isa "$isa" --threads 2 --seconds 0) || fail "bench gemm --isa $isa"
    has "$out" "2 threads, packed $isa"
    has "$out" "nvfp4 1x16 by 16x16 .* [0-9.]*x"
    has "$out" "onednn bf16 .*\([0-9]\.[0-9]\|- *- *oneDNN has none for this processor\)"
    out=$("$nibble" info --isa "$isa" --threads 2) || fail "info --isa $isa"
    has "$out" "backend *cpu, $isa"
    has "$out" "nvfp4 1x16 by nvfp4 16x16 *packed $isa"
done

# Columns that no block divides leave only the formats without blocks.
out=$("$nibble" bench gemm --shape 5x7x9 --seconds 0 --no-peers --out f32) || fail "bench gemm --shape 5x7x9"
has "$out" "e2m1 row by row"
printf '%s\n' "$out" | grep -q nvfp4 && fail "nvfp4 with 9 columns"

out=$(OPENBLAS_CORETYPE=Haswell "$nibble" bench gemm --shape 16x16x16 --seconds 0) || fail "with OPENBLAS_CORETYPE"
has "$out" "OPENBLAS_CORETYPE is set to Haswell"

out=$("$nibble" bench ops --tokens 66 --seq 33 --heads 2 --kv-heads 1 --head-dim 34 --vocab 101 --threads 2 --seconds 0) ||
    fail "bench ops"
has "$out" "cross entropy, both ways .* %"
has "$out" "gla backward"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '%s\n' '{name: small, family: llama, vocab: 257, hidden: 64, layers: 2, heads: 2, kv_heads: 1, intermediate: 128,' \
    ' max_seq: 64}' > "$work/small.yaml"
"$nibble" tokenize "$2/docs/training.md" --tokenizer bytes --val 0.2 --split blank -o "$work/data" > /dev/null
printf '%s\n' "model: $work/small.yaml" 'recipe: nvfp4' "out: $work/run" 'steps: 1' 'seq: 32' 'micro_batch: 2' \
    "data: {train: '$work/data/train_*.bin', val: '$work/data/val_*.bin', tokenizer: $work/data}" > "$work/run.yaml"
out=$("$nibble" bench lens "$work/run.yaml" --set threads=1 --rounds 2) || fail "bench lens"
has "$out" "sampled  *[0-9.]*  *[-+][0-9.]*%"
has "$out" "on average at lens.every 100"
[ ! -e "$work/run" ] || fail "bench lens left a run folder"
refused 2 "expected 1 to" bench lens "$work/run.yaml" --rounds 0

out=$("$nibble" bench attention --backend cpu --batch 2 --seq 40 --heads 2 --kv-heads 1 --head-dim 32 --documents 4 --seconds 0) ||
    fail "bench attention"
has "$out" "2 sequences of 40 in 4 documents"
has "$out" "^any .*avx\|^any .*scalar\|^any .*one order"
refused 2 "N (N + 1) / 2 positions" bench attention --backend cpu --seq 8 --documents 4

refused 2 "whole sequences" bench ops --tokens 100 --seq 33
refused 2 "not a size" bench ops --vocab 0

refused 2 "expected MxNxK" bench gemm --shape 12x
refused 2 "expected MxNxK" bench gemm --shape 1x0x4
refused 2 "expected MxNxK" bench gemm --shape 99999999999999999999x1x1
refused 2 "avx512" bench gemm --isa avx9000
refused 2 "threads" bench gemm --threads -3
"$nibble" bench gemm --shape 16x16x16 --seconds 0 --alone | grep -q "1 threads.*" || fail "bench gemm --alone"
refused 2 "one thread" bench gemm --alone --threads 2
refused 2 "bf16 or f32" bench gemm --out f16
refused 2 "no benchmark 'gem'" bench gem
exit 0
