#!/bin/sh
# test_ways_out.sh NIBBLE SOURCE_DIR: how a run ends and goes on when its surroundings go: the terminal, the reader of its
# output, its standard streams, its logs.
set -eu
nibble=$1 source=$2
# shellcheck source=tests/script.sh
. "$source/tests/script.sh"
cd "$work"

cat > model.yaml << 'END'
{name: small, family: llama, vocab: 257, hidden: 32, layers: 1, heads: 2, kv_heads: 2, intermediate: 64, max_seq: 32}
END
cat > run.yaml << 'END'
model: ./model.yaml
recipe: nvfp4
out: run
data: {train: "data/train_*.bin", val: "data/val_*.bin", tokenizer: data}
steps: 8
seq: 32
micro_batch: 2
eval: {every: 4, sequences: 2}
checkpoint: {every: 4, keep: 3}
lens: {every: 2, window: 1}
peak_flops: none
threads: 1
print_every: 1
END
head -c 20000 "$source/docs/training.md" > text.txt
"$nibble" tokenize text.txt --tokenizer bytes --val 0.1 --split blank -o data > /dev/null
"$nibble" train run.yaml --set out=whole -q
cp -r whole lost
rm -r lost/checkpoints/step-00000008 # as it was when the second checkpoint was not yet written

# ends_alike FOLDER: its last checkpoint holds the weights of the run that nothing happened to, and all of it verifies.
ends_alike() {
    cmp "$1/checkpoints/step-00000008/model.safetensors" whole/checkpoints/step-00000008/model.safetensors ||
        fail "$1: other weights"
    "$nibble" verify "$1" > verified 2>&1 || fail "$1: $(cat verified)"
}

# ---- signals: a checkpoint, and one line with a hint that is true --------------------------------------------------------
for signal in HUP PIPE; do # which nohup, say, has a shell and all below it ignore
    env --default-signal=$signal "$nibble" train run.yaml --set out=$signal --set steps=1000000 -q 2> err &
    child=$!
    while [ ! -s $signal/metrics.jsonl ]; do sleep 0.05; done
    kill -$signal $child
    status=0
    wait $child || status=$?
    [ $status = 1 ] || fail "SIG$signal: status $status"
    [ "$(grep -vc '^nibble: warning' err)" = 1 ] || fail "SIG$signal: not one line: $(cat err)"
    grep -q 'checkpoint written; hint: --resume' err || fail "SIG$signal: $(cat err)"
    "$nibble" verify $signal > verified 2>&1 || fail "SIG$signal: $(cat verified)"
done
# Somebody who reads as far as the first step and goes.
{
    status=0
    "$nibble" train run.yaml --set out=read --set steps=1000000 2> err || status=$?
    echo $status > status
} | sed '/^step/q' > /dev/null
[ "$(cat status)" = 1 ] || fail "a reader that goes: status $(cat status)"
grep -q 'checkpoint written' err || fail "a reader that goes: $(cat err)"

# ---- standard streams that the caller closed: what is printed lands in no file of the run --------------------------------
"$nibble" train run.yaml --set out=closed <&- >&- 2>&- || fail "closed streams: status $?"
ends_alike closed
grep -v '^{"step":' closed/metrics.jsonl && fail "closed streams: text in metrics.jsonl"

# ---- logs of every kind, damaged or gone to zeros: set aside with a warning, and the run ends in the same bits -----------
for log in metrics.jsonl lens/series.nbs events; do
    for damage in flipped zeros; do
        to=$damage-$(basename $log)
        cp -r lost "$to"
        file=$(find "$to" -maxdepth 2 -path "$to/$log*" | head -n 1)
        if [ $damage = flipped ]; then # in the first third, which is before the step that is gone on from
            printf '\377' | dd of="$file" bs=1 seek=$(($(wc -c < "$file") / 3)) conv=notrunc 2> /dev/null
        else
            head -c "$(wc -c < "$file")" /dev/zero > zeros
            cp zeros "$file"
        fi
        "$nibble" train run.yaml --set out="$to" --resume -q 2> err || fail "$to: status $?: $(cat err)"
        grep -q '^nibble: warning: .*set aside as .*damaged-1' err || fail "$to: nothing is said: $(cat err)"
        find "$to" -name '*.damaged-1' | grep -q . || fail "$to: nothing was set aside"
        ends_alike "$to"
    done
done

# ---- a step that is none: neither a place of `keep` nor the end of the run -----------------------------------------------
cp -r lost strays
mkdir strays/checkpoints/step-99 strays/checkpoints/step-00000099
"$nibble" train run.yaml --set out=strays --resume -q 2> err || fail "strays: status $?: $(cat err)"
cmp strays/checkpoints/step-00000008/model.safetensors whole/checkpoints/step-00000008/model.safetensors || fail "strays: other weights"
