#!/bin/sh
# test_lens_cli.sh NIBBLE SOURCE_DIR: a run that is looked at, and `nibble lens` on it: flips before and after resets.
set -eu
nibble=$1 source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

printf 'name: small\nfamily: olmo2\nvocab: 257\nhidden: 32\nlayers: 1\nheads: 2\nintermediate: 64\nmax_seq: 64\n' > model.yaml
printf 'name: resets\nbase: nvfp4\nkeep: {last_blocks: 0}\noscireset: {start: 4, period: 4, window: 2, threshold: 1}\n' \
    > resets.yaml
printf 'base: ./resets.yaml\nname: kept\nkeep: {modules: [embedding, lm_head, "*down_proj"]}\n' > kept.yaml
cat > run.yaml << 'END'
model: ./model.yaml
recipe: ./resets.yaml
out: runs/resets
data: {train: "data/train_*.bin", tokenizer: data}
steps: 12
seq: 32
micro_batch: 1
optimizer: {lr: 1e-2}
lens: {every: 4, window: 2}
END
"$nibble" tokenize "$source/docs/training.md" --tokenizer bytes --val 0.2 --split blank -o data > tokenized
"$nibble" train run.yaml -q
"$nibble" train run.yaml -q --set recipe=bf16 --set out=runs/bf16

"$nibble" lens runs/resets runs/bf16/ > out
grep -q '^resets:.* flip_rate' out || fail "flip_rate is not listed: $(cat out)"
grep -q '^resets:.* reset_share' out || fail "reset_share is not listed: $(cat out)"
grep -q '^bf16:.* kurtosis' out || fail "the second run is not listed: $(cat out)"
! grep '^bf16:' out | grep -q flip_rate || fail "weights in BF16 flip: $(cat out)"

"$nibble" lens runs/resets runs/bf16 --metric flip_rate > out
grep -q '^ *step  *resets  *bf16$' out || fail "no head: $(cat out)"
[ "$(grep -c '^ *[0-9]' out)" = 3 ] || fail "expected three windows: $(cat out)"
"$nibble" lens runs/resets --metric reset_share --module '*down_proj' > out
[ "$(grep -c '^ *\(7\|11\) ' out)" = 2 ] || fail "expected resets after steps 7 and 11: $(cat out)"
"$nibble" lens runs/resets --metric ratio_above_8 > out || fail "ratios"

# Means are of one operand, and over modules that every run has: the second run keeps down_proj in BF16.
"$nibble" train run.yaml -q --set out=runs/kept --set recipe=./kept.yaml
"$nibble" lens runs/resets --metric snr_db --role fprop.w --module '*gate_proj' > gate
"$nibble" lens runs/resets --metric snr_db --role fprop.w > all
"$nibble" lens runs/resets runs/kept --metric snr_db --role fprop.w > both
grep -q 'mean over 7 modules\. ' all || fail "modules of one run: $(cat all)"
grep -q 'snr_db of fprop.w, mean over 6 modules that every run has; 1 that not every run has are left out' both \
    || fail "modules of two runs: $(cat both)"
[ "$(awk '$1 == 0 {print $2}' all)" != "$(awk '$1 == 0 {print $2}' both)" ] || fail "down_proj is in the mean"
[ "$(awk '$1 == 0 {print $2}' both)" = "$(awk '$1 == 0 {print $3}' both)" ] || fail "means of one weight differ: $(cat both)"
[ "$(awk '$1 == 0 {print $2}' all)" != "$(awk '$1 == 0 {print $2}' gate)" ] || fail "--module picks nothing"

refused() { # PATTERN ARGS...: exit status 2 and a line that fits
    pattern=$1 status=0
    shift
    "$nibble" lens "$@" 2> err || status=$?
    [ $status = 2 ] || fail "lens $*: exit $status"
    grep -q "$pattern" err || fail "lens $*: $(cat err)"
}
refused 'kurtosis is measured of .*expected --role' runs/resets --metric kurtosis
refused 'no run has a number called flips' runs/resets --metric flips
refused 'holds no measurements' data
