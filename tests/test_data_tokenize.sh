#!/bin/sh
# `nibble tokenize` end to end, and what it says to bad input.   usage: test_data_tokenize.sh NIBBLE SOURCE_DIR
set -eu
nibble=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fails() { # STATUS PATTERN COMMAND...: ends so, says so in one line, leaves nothing
    want=$1 pattern=$2
    shift 2
    got=0
    "$@" > "$dir/out" 2> "$dir/err" || got=$?
    [ "$got" = "$want" ] || { echo "exit $got, expected $want: $*"; cat "$dir/err"; exit 1; }
    [ "$(wc -l < "$dir/err")" = 1 ] || { echo "not one line: $*"; cat "$dir/err"; exit 1; }
    grep -q -- "$pattern" "$dir/err" || { echo "no '$pattern' in:"; cat "$dir/err"; exit 1; }
    [ -z "$(find "$dir" -name '*.tmp-*')" ] || { echo "left something: $*"; ls "$dir"; exit 1; }
}

i=0
while [ $i -lt 2000 ]; do
    echo "line $i tells that the square of $i is $((i * i))"
    i=$((i + 1))
done > "$dir/text.txt"
: > "$dir/empty.txt"

"$nibble" tokenize "$dir/text.txt" --train-tokenizer 300 --split line --val 0.05 -o "$dir/a/b" -q
"$nibble" tokenize "$dir/text.txt" --tokenizer "$dir/a/b" --split line --val 0.05 -o "$dir/again" -q
cmp "$dir/a/b/train_000000.bin" "$dir/again/train_000000.bin"
cmp "$dir/a/b/val_000000.bin" "$dir/again/val_000000.bin"
grep -q '"vocab": 300' "$dir/again/meta.json"
OMP_NUM_THREADS=1 "$nibble" tokenize "$dir/text.txt" -t "$dir/a/b/tokenizer.model" --split line --val 0.05 -o "$dir/again" -q --force
cmp "$dir/a/b/train_000000.bin" "$dir/again/train_000000.bin"
"$nibble" tokenize "$dir/text.txt" -t bytes -o "$dir/bytes" | grep -q 'vocabulary 257'

fails 2 'not empty; give another name or --force' "$nibble" tokenize "$dir/text.txt" -t bytes -o "$dir/bytes" -q
fails 2 'not empty; give another name$' "$nibble" tokenize "$dir/text.txt" -t bytes -o "$dir" --force -q
fails 2 'the text is empty' "$nibble" tokenize "$dir/empty.txt" -t bytes -o "$dir/x" -q
fails 1 'No such file' "$nibble" tokenize "$dir/none.txt" -t bytes -o "$dir/x" -q
fails 1 'no such tokenizer' "$nibble" tokenize "$dir/text.txt" -t byts -o "$dir/x" -q
fails 2 'not a SentencePiece model' "$nibble" tokenize "$dir/text.txt" -t "$dir/text.txt" -o "$dir/x" -q
fails 2 'expected file, blank or line' "$nibble" tokenize "$dir/text.txt" -t bytes --split word -o "$dir/x" -q
fails 2 'expected one of --tokenizer' "$nibble" tokenize "$dir/text.txt" -o "$dir/x" -q
fails 2 'cannot be trained on this text' "$nibble" tokenize "$dir/text.txt" --train-tokenizer 9000 -o "$dir/x" -q
fails 2 'too few' "$nibble" tokenize "$dir/text.txt" -t bytes --val 0.000001 -o "$dir/x" -q
[ ! -e "$dir/x" ]
