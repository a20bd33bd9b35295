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

# Byte-level BPE: trained; its folder and its tokenizer.json alone give the same tokens, whatever the number of threads.
"$nibble" tokenize "$dir/text.txt" --train-tokenizer 270 --kind bpe --split line --val 0.05 -o "$dir/pairs" -q
grep -q '"tokenizer": "bpe"' "$dir/pairs/meta.json"
for given in pairs pairs/tokenizer.json; do
    OMP_NUM_THREADS=1 "$nibble" tokenize "$dir/text.txt" -t "$dir/$given" --split line --val 0.05 -o "$dir/again" -q --force
    cmp "$dir/pairs/train_000000.bin" "$dir/again/train_000000.bin"
    cmp "$dir/pairs/tokenizer.json" "$dir/again/tokenizer.json"
done

fails 2 'not empty; give another name or --force' "$nibble" tokenize "$dir/text.txt" -t bytes -o "$dir/bytes" -q
fails 2 'not empty; give another name$' "$nibble" tokenize "$dir/text.txt" -t bytes -o "$dir" --force -q
fails 2 'the text is empty' "$nibble" tokenize "$dir/empty.txt" -t bytes -o "$dir/x" -q
fails 1 'No such file' "$nibble" tokenize "$dir/none.txt" -t bytes -o "$dir/x" -q
fails 1 'no such tokenizer' "$nibble" tokenize "$dir/text.txt" -t byts -o "$dir/x" -q
fails 2 'not a SentencePiece model' "$nibble" tokenize "$dir/text.txt" -t "$dir/text.txt" -o "$dir/x" -q
fails 2 'expected sentencepiece or bpe' "$nibble" tokenize "$dir/text.txt" --train-tokenizer 300 --kind word -o "$dir/x" -q
fails 2 'expected sentencepiece or bpe' "$nibble" tokenize "$dir/text.txt" -t bytes --kind bpe -o "$dir/x" -q
fails 2 'expected file, blank or line' "$nibble" tokenize "$dir/text.txt" -t bytes --split word -o "$dir/x" -q
fails 2 'expected one of --tokenizer' "$nibble" tokenize "$dir/text.txt" -o "$dir/x" -q
fails 2 'cannot be trained on this text' "$nibble" tokenize "$dir/text.txt" --train-tokenizer 9000 -o "$dir/x" -q
fails 2 'this text, which gives at most [0-9]*; hint: fewer tokens' "$nibble" tokenize "$dir/text.txt" --train-tokenizer 9000 -o "$dir/x" -q
fails 2 'characters and bytes alone are [0-9]*; expected more$' "$nibble" tokenize "$dir/text.txt" --train-tokenizer 260 -o "$dir/x" -q
! grep -q 'trainer_interface' "$dir/err" || { echo "an assertion of SentencePiece: $(cat "$dir/err")"; exit 1; }
fails 2 'too few' "$nibble" tokenize "$dir/text.txt" -t bytes --val 0.000001 -o "$dir/x" -q

# ---- standard input: the same tokens as from files, whatever it is packed in -----------------------------------------------
"$nibble" tokenize "$dir/text.txt" -t bytes --val 0 -o "$dir/file" -q
for packer in cat gzip; do
    $packer < "$dir/text.txt" | "$nibble" tokenize - -t bytes --val 0 -o "$dir/piped" -q --force
    cmp "$dir/file/train_000000.bin" "$dir/piped/train_000000.bin"
done
printf '{"text": "one"}\n{"text": "two"}\n' | "$nibble" tokenize - -t bytes --val 0 -o "$dir/piped" --force | grep -q '2 documents'
fails 2 'the text is empty' sh -c '"$1" tokenize - -t bytes -o "$2" < /dev/null' sh "$nibble" "$dir/x"

# ---- what is no plain text ------------------------------------------------------------------------------------------
printf '\303\244 line of text\n\nand a second document\n' > "$dir/two.txt"
"$nibble" tokenize "$dir/two.txt" -t bytes --split blank --val 0 -o "$dir/plain" -q
gzip -c "$dir/two.txt" > "$dir/two.txt.gz"
(gzip -c "$dir/two.txt"; gzip -c "$dir/text.txt") > "$dir/members.gz"
cat "$dir/two.txt" "$dir/text.txt" > "$dir/members.txt"


cp "$2/tests/golden/files/two.txt.zst" "$2/tests/golden/files/lines.zst" "$dir" # by zstd 1.5; lines.zst has two frames
for packed in gz zst; do
    "$nibble" tokenize "$dir/two.txt.$packed" -t bytes --split blank --val 0 -o "$dir/$packed" -q
    cmp "$dir/plain/train_000000.bin" "$dir/$packed/train_000000.bin"
done
"$nibble" tokenize "$dir/members.gz" -t bytes --val 0 -o "$dir/members" -q
"$nibble" tokenize "$dir/members.txt" -t bytes --val 0 -o "$dir/joined" -q
cmp "$dir/members/train_000000.bin" "$dir/joined/train_000000.bin"
"$nibble" tokenize "$dir/lines.zst" -t bytes --val 0.01 -o "$dir/long" -q
cmp "$dir/bytes/train_000000.bin" "$dir/long/train_000000.bin"

# Documents of JSON lines are the texts, escapes undone.
printf '%s\n' '{"id": 1, "text": "\u00e4 line of text\n"}' '' '{"text": "and a second document\n", "id": 2}' > "$dir/two.jsonl"
gzip -c "$dir/two.jsonl" > "$dir/two.jsonl.gz"
cp "$dir/two.jsonl" "$dir/unnamed"
for json in two.jsonl two.jsonl.gz unnamed; do
    "$nibble" tokenize "$dir/$json" -t bytes --val 0 -o "$dir/json-$json" -q
    cmp "$dir/plain/train_000000.bin" "$dir/json-$json/train_000000.bin"
done
sed 's/"text"/"body"/' "$dir/two.jsonl" > "$dir/body.jsonl"
"$nibble" tokenize "$dir/body.jsonl" --field body -t bytes --val 0 -o "$dir/body" -q
cmp "$dir/plain/train_000000.bin" "$dir/body/train_000000.bin"
fails 2 'body.jsonl, line 1: no text under "text".*strings under: body' "$nibble" tokenize "$dir/body.jsonl" -t bytes -o "$dir/x" -q
printf '{"text": "a"}\n{"text": \n' > "$dir/broken.jsonl"
fails 2 'broken.jsonl, line 2: ' "$nibble" tokenize "$dir/broken.jsonl" -t bytes -o "$dir/x" -q
fails 2 'is not JSON lines' "$nibble" tokenize "$dir/two.txt" --field text -t bytes -o "$dir/x" -q

# What else a file is, and how to make text of it; nothing is tokenized.
head -c 100 "$dir/lines.zst" > "$dir/cut.zst"
fails 2 'cut.zst: the zstd file ends too early' "$nibble" tokenize "$dir/cut.zst" -t bytes -o "$dir/x" -q
head -c 60 "$dir/members.gz" > "$dir/cut.gz"
fails 2 'cut.gz: the gzip file' "$nibble" tokenize "$dir/cut.gz" -t bytes -o "$dir/x" -q
iconv -f UTF-8 -t UTF-16 "$dir/two.txt" > "$dir/wide.txt"
fails 2 'is UTF-16 text; .*iconv -f UTF-16' "$nibble" tokenize "$dir/wide.txt" -t bytes -o "$dir/x" -q
iconv -f UTF-8 -t UTF-16LE "$dir/two.txt" > "$dir/wide.txt"
fails 2 'without a byte order mark.*UTF-16LE' "$nibble" tokenize "$dir/wide.txt" --train-tokenizer 300 -o "$dir/x" -q
iconv -f UTF-8 -t LATIN1 "$dir/two.txt" > "$dir/old.txt"
fails 2 'is not UTF-8 (1 of .*the first at 0).*iconv' "$nibble" tokenize "$dir/old.txt" -t bytes -o "$dir/x" -q
head -c 4000 "$nibble" | tail -c 3000 > "$dir/any"
fails 2 'any: is no text: .*--as-is' "$nibble" tokenize "$dir/any" -t bytes -o "$dir/x" -q

# All of a text is looked at, not its beginning; few bad bytes are taken with a word, many refused wherever they are.
i=0
while [ $i -lt 12 ]; do
    head -c 25000 "$dir/text.txt"
    printf 'caf\351 %d\n' $i
    i=$((i + 1))
done > "$dir/mostly.txt"
"$nibble" tokenize "$dir/mostly.txt" -t bytes --val 0 -o "$dir/mostly" 2> "$dir/err"
grep -q 'mostly.txt: 12 bytes are not UTF-8, the first at 25003; they stay as they are' "$dir/err" || { cat "$dir/err"; exit 1; }
"$nibble" tokenize "$dir/mostly.txt" --train-tokenizer 300 --val 0 -o "$dir/mostly" --force 2> "$dir/err"
grep -q 'mostly.txt: 12 bytes are not UTF-8, the first at 25003; they become U+FFFD' "$dir/err" || { cat "$dir/err"; exit 1; }
"$nibble" tokenize "$dir/mostly.txt" -t bytes --val 0 --as-is -o "$dir/mostly" --force 2> "$dir/err"
[ ! -s "$dir/err" ] || { echo "--as-is: $(cat "$dir/err")"; exit 1; }
for part in text.txt text.txt text.txt text.txt; do cat "$dir/$part" "$dir/$part" "$dir/$part"; done > "$dir/good.txt"
[ "$(wc -c < "$dir/good.txt")" -gt 1048576 ]
i=0
while [ $i -lt 20000 ]; do
    printf 'ligne %d du caf\351\n' $i
    i=$((i + 1))
done > "$dir/latin"
for part in 1 2 3 4 5 6 7 8 9 10 11 12; do tail -c +65 "$nibble" | head -c 250000; done > "$dir/machine"
cat "$dir/good.txt" "$dir/latin" > "$dir/late.txt"
cat "$dir/good.txt" "$dir/machine" > "$dir/code.txt"
fails 2 'late.txt: is not UTF-8 (20000 of .*the first at 1[0-9]*)' "$nibble" tokenize "$dir/late.txt" -t bytes -o "$dir/x" -q
fails 2 'code.txt: is no text' "$nibble" tokenize "$dir/code.txt" -t bytes -o "$dir/x" -q

# JSON that is no JSON lines.
printf '[\n  {"text": "one"},\n  {"text": "two"}\n]\n' > "$dir/array.json"
fails 2 "array.json: is JSON, an array of objects; .*hint: jq -c '.\[\]'" "$nibble" tokenize "$dir/array.json" -t bytes -o "$dir/x" -q
printf '{\n  "text": "one"\n}\n' > "$dir/object.json"
fails 2 'object.json: is JSON, an object over several lines' "$nibble" tokenize "$dir/object.json" -t bytes -o "$dir/x" -q
printf '{"text": 5}\n' > "$dir/five.jsonl"
fails 2 'line 1: what is under "text" is a number; expected a string there, and this line has no other' \
    "$nibble" tokenize "$dir/five.jsonl" -t bytes -o "$dir/x" -q
printf '[a note] {in braces}\nis text\n' > "$dir/note.txt"
"$nibble" tokenize "$dir/note.txt" -t bytes --val 0 -o "$dir/note" -q

# A vocabulary that cannot be is refused before anybody is told to wait.
head -c 348 "$dir/text.txt" > "$dir/348.txt"
for vocab in 3 4096 1000001; do
    fails 2 "of $vocab tokens cannot be trained" "$nibble" tokenize "$dir/348.txt" --train-tokenizer $vocab -o "$dir/x"
done

# How a text begins, as it is read.
peek() { # BYTES FILE WORDS
    "$nibble" tokenize "$dir/$2" --peek "$1" > "$dir/out"
    [ "$(sed 1d "$dir/out")" = "$3" ] || { echo "$2 begins: $(cat "$dir/out")"; exit 1; }
}
printf '\344\270\255\346\226\207\346\226\207\346\234\254\n' > "$dir/chinese.txt"
peek 19 two.txt "$(printf '\303\244 line of text and')"
peek 18 two.txt "$(printf '\303\244 line of text')"
peek 19 two.txt.gz "$(printf '\303\244 line of text and')"
peek 19 two.jsonl.gz "$(printf '\303\244 line of text and')"
peek 8 chinese.txt "$(printf '\344\270\255\346\226\207')"
peek 2 chinese.txt ''
[ "$("$nibble" tokenize "$dir/two.txt.gz" --peek 9 | head -n 1)" = "$(wc -c < "$dir/two.txt" | tr -d ' ') bytes of text" ]
fails 2 'is UTF-16 text' "$nibble" tokenize "$dir/wide.txt" --peek 9

"$nibble" tokenize "$dir/any" -t bytes --as-is --val 0 -o "$dir/as-is" -q
[ ! -e "$dir/x" ]
