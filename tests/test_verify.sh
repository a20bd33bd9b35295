#!/bin/sh
# test_verify.sh NIBBLE SOURCE: whatever byte of a run, its data or its logs changes, `nibble verify` says where.
set -eu
nibble=$1 source=$2
# shellcheck source=tests/script.sh
. "$source/tests/script.sh"

cat > "$work/model.yaml" << 'END'
name: verify
family: llama
vocab: 257
hidden: 32
layers: 1
heads: 2
kv_heads: 2
head_dim: 16
intermediate: 64
max_seq: 32
END
head -c 20000 "$source/docs/training.md" > "$work/text.txt"
"$nibble" tokenize "$work/text.txt" --tokenizer bytes --val 0.2 --split blank -o "$work/data" > /dev/null
cat > "$work/run.yaml" << END
model: $work/model.yaml
recipe: nvfp4
out: $work/run
data: {train: "$work/data/train_*.bin", val: "$work/data/val_*.bin", tokenizer: $work/data}
steps: 4
seq: 16
micro_batch: 2
lens: {every: 2, window: 0}
eval: {every: 2, sequences: 2}
checkpoint: {every: 2, keep: 0}
peak_flops: none
END
"$nibble" train "$work/run.yaml" -q
"$nibble" verify "$work/run" "$work/data" > "$work/log" || fail "a good run: $(cat "$work/log")"

# One bit in the middle of each file that has a checksum; the name of the file must be in what is said.
flipped=0
for file in "$work"/run/checkpoints/*/* "$work"/run/lens/*.nbs "$work"/run/events.* "$work"/run/lens/events.* \
    "$work"/data/*.bin "$work"/run/metrics.jsonl; do
    size=$(wc -c < "$file")
    at=$((size / 2))
    cp "$file" "$work/kept"
    byte=$(od -An -tu1 -j$at -N1 "$file" | tr -d ' ')
    # In a line of metrics any letter may change into any other; a control character is no JSON.
    # shellcheck disable=SC2059 # the format is the byte
    case $file in
    *.jsonl) printf '\001' ;;
    *) printf "\\$(printf %03o $((byte ^ 1)))" ;;
    esac | dd of="$file" bs=1 seek=$at conv=notrunc 2> /dev/null
    status=0
    "$nibble" verify "$work/run" "$work/data" > "$work/log" 2> /dev/null || status=$?
    [ "$status" = 1 ] || fail "$file, byte $at: exit status $status"
    grep '^wrong' "$work/log" | grep -q -e "$(basename "$file")" -e 'other data' || fail "$file: $(cat "$work/log")"
    cp "$work/kept" "$file"
    flipped=$((flipped + 1))
done
[ "$flipped" -gt 15 ] || fail "only $flipped files"
echo '{}' > "$work/run/checkpoints/step-00000004/model.safetensors.index.json"
! "$nibble" verify "$work/run" > "$work/log" 2> /dev/null || fail "an added index"
grep -q 'index.json: is not listed' "$work/log" || fail "$(cat "$work/log")"

# What cannot be read is wrong, not absent.
mv "$work/run/lens" "$work/lens"
"$nibble" verify "$work/run/metrics.jsonl" > /dev/null || fail "a file of its own"
: > "$work/run/lens"
! "$nibble" verify "$work/run" > "$work/log" 2> /dev/null || fail "a folder that cannot be listed"
grep -q '^wrong .*/run/lens: cannot list the folder' "$work/log" || fail "$(cat "$work/log")"

# A path that is not there, and one of nothing that can be verified, keep nobody from the others.
status=0
echo text > "$work/empty.txt"
"$nibble" verify "$work/nowhere" "$work/empty.txt" "$work/run/metrics.jsonl" > "$work/log" 2> /dev/null || status=$?
[ "$status" = 1 ] || fail "a path that is not there: exit status $status"
grep -q '^wrong .*/nowhere: cannot examine: No such file' "$work/log" || fail "$(cat "$work/log")"
grep -q '^wrong .*/empty.txt: holds nothing that can be verified' "$work/log" || fail "$(cat "$work/log")"
grep -q '^plain .*/run/metrics.jsonl$' "$work/log" || fail "what follows is not read: $(cat "$work/log")"
