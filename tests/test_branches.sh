#!/bin/sh
# test_branches.sh NIBBLE SOURCE: a call that fails in a branch of a process (tests/faults/branches.h) leads to the end, the
# words and the files, to the bit, that it leads to in a process of its own.
faults=$(realpath "$(dirname "$1")")/libfaults.so
[ -e "$faults" ] || exit 77
set -eu
nibble=$(realpath "$1") source=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/here" "$work/seen"
cd "$work/here"
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive OPENBLAS_NUM_THREADS=1

echo '{name: small, family: llama, vocab: 257, hidden: 128, layers: 1, heads: 2, kv_heads: 2, intermediate: 128, max_seq: 32}' > model.yaml
cat > run.yaml << 'END'
model: ./model.yaml
recipe: nvfp4
out: run
data: {train: "data/train_*.bin", val: "data/val_*.bin", tokenizer: data}
steps: 4
seq: 32
micro_batch: 1
optimizer: {lr: 3e-3}
eval: {every: 2, sequences: 1}
checkpoint: {every: 1, keep: 2}
lens: {every: 2, window: 1}
peak_flops: none
threads: 1
END
head -c 30000 "$source/docs/training.md" > text.txt
"$nibble" tokenize text.txt --tokenizer bytes --val 0.1 --split blank -o data > /dev/null

strikes() { # of each kind some, the last behind the last call
    NIBBLE_FAULT_COUNT=$work/count LD_PRELOAD=$faults "$nibble" train run.yaml -q
    while read -r kind most; do
        case $kind in at | any) continue ;; alloc) error=12 ;; *) error=28 ;; esac
        for i in 1 2 3 4 5 6; do
            echo "train $kind:$(((2 * i - 1) * most / 10 + 1)):$error run train run.yaml -q"
        done
    done < "$work/count"
    echo "train write:9+:28 run train run.yaml -q"
}
strikes > "$work/strikes"
BRANCHES=0 "$source/scripts/strike.py" "$nibble" "$faults" "$work/seen" < "$work/strikes" | cut -d ' ' -f 1-2 > "$work/alone"
"$source/scripts/strike.py" "$nibble" "$faults" "$work/seen" < "$work/strikes" > "$work/branches"
sed 's/$/ known/' "$work/alone" | paste -d ' ' "$work/strikes" - > "$work/expected"
paste -d ' ' "$work/strikes" "$work/branches" | diff "$work/expected" - || { echo "a branch ends otherwise" && exit 1; }
cut -d ' ' -f 1 "$work/alone" | sort | uniq -c
