#!/bin/sh
# test_limits.sh NIBBLE: a limit on addresses (ulimit -v), from one under which the program just starts to one that is
# enough: each command ends with 0, or with 1 and one line, never by a signal.
set -eu
nibble=$1
[ -e "$(dirname "$nibble")/libfaults.so" ] || exit 77 # a sanitizer's own memory wants more addresses than any limit
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > model.yaml << 'END_OF_MODEL'
{name: small, family: llama, vocab: 257, hidden: 64, layers: 1, heads: 2, kv_heads: 2, intermediate: 64, max_seq: 32}
END_OF_MODEL
cat > run.yaml << 'END_OF_RUN'
model: ./model.yaml
recipe: nvfp4
out: run
data: {train: "data/train_*.bin", val: "data/val_*.bin", tokenizer: data}
steps: 2
seq: 32
micro_batch: 2
eval: {every: 2, sequences: 2}
peak_flops: none
threads: 1
END_OF_RUN
seq 4000 > text.txt
"$nibble" tokenize text.txt --tokenizer bytes --val 0.1 -o data > /dev/null

# under KIB COMMAND...: its exit status, what it said in the file said
under() {
    # shellcheck disable=SC3045 # dash and bash have it
    (ulimit -v "$1" && shift && exec "$@") > /dev/null 2> said
}
starts() {
    status=0
    under "$1" "$nibble" --version || status=$?
    [ $status -le 1 ] # 127 is the loader's, which has no room for the libraries; a signal is one's of them that begins before us
}
low=20000 high=400000
starts $high || exit 77
while [ $((high - low)) -gt 128 ]; do
    middle=$(((low + high) / 2))
    if starts $middle; then high=$middle; else low=$middle; fi
done

# judge KIB COMMAND...
judge() {
    status=0
    under "$@" || status=$?
    # libgomp says by itself that it gets no threads
    if [ $status -gt 1 ] || { [ $status = 1 ] && [ "$(grep -c -v -e '^nibble: warning' -e '^$' said)" != 1 ]; }; then
        echo "FAILED: $2 $3 under ulimit -v $1: status $status: $(cat said)" >&2
        exit 1
    fi
    ended=$status
}
stopped=0 limit=$high
for more in 0 200 400 600 800 1000 1200 1400 1600 1800 2000 2200 2600 3000 4000 6000 9000 14000 20000 30000 45000 60000; do
    limit=$((high + more))
    judge $limit "$nibble" --version
    rm -rf run
    judge $limit "$nibble" train run.yaml -q
    [ $ended = 0 ] || stopped=$((stopped + 1))
done
[ $stopped -gt 0 ] || { echo "FAILED: no limit was too low: $high KiB and more" >&2; exit 1; }
judge $((high + 400000)) "$nibble" train run.yaml -q --set out=whole
[ $ended = 0 ] || { echo "FAILED: $((high + 400000)) KiB are not enough: $(cat said)" >&2; exit 1; }
