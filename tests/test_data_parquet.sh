#!/bin/sh
# Text out of Parquet: the files of tests/golden/parquet, which pyarrow wrote (scripts/golden_parquet.py), and what is said where
# nibble was built without that part, which is the build that most have.   usage: test_data_parquet.sh NIBBLE SOURCE_DIR
set -eu
nibble=$1 golden=$(cd "$2" && pwd)/tests/golden/parquet
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/spool"
export TMPDIR="$dir/spool"

fails() { # STATUS PATTERN COMMAND...: ends so, says so in one line, leaves nothing
    want=$1 pattern=$2
    shift 2
    got=0
    "$@" > "$dir/out" 2> "$dir/err" || got=$?
    [ "$got" = "$want" ] || { echo "exit $got, expected $want: $*"; cat "$dir/err"; exit 1; }
    [ "$(wc -l < "$dir/err")" = 1 ] || { echo "not one line: $*"; cat "$dir/err"; exit 1; }
    grep -q -- "$pattern" "$dir/err" || { echo "no '$pattern' in:"; cat "$dir/err"; exit 1; }
    [ -z "$(ls "$dir/spool"; ls -d "$dir/x" 2> /dev/null)" ] || { echo "left something: $*"; ls "$dir" "$dir/spool"; exit 1; }
}

# ---- a program that is alone ---------------------------------------------------------------------------------------
mkdir "$dir/bare"
cp "$nibble" "$dir/bare/nibble"
absent='is a Parquet file, and there is no libnibble-parquet.so beside the program, which reads them; hint: make parquet'
fails 1 "snappy.parquet: $absent" "$dir/bare/nibble" tokenize "$golden/snappy.parquet" -t bytes -o "$dir/x" -q
# shellcheck disable=SC2016  # of the inner shell
fails 1 "standard input: $absent" sh -c '"$1" tokenize - -t bytes -o "$2" < "$3"' sh "$dir/bare/nibble" "$dir/x" "$golden/snappy.parquet"
fails 1 "snappy.parquet: $absent" "$dir/bare/nibble" tokenize "$golden/snappy.parquet" --peek 9
printf 'no library' > "$dir/libnibble-parquet.so" # the folder one is in is no place for libraries
(cd "$dir" && fails 1 "snappy.parquet: $absent" bare/nibble tokenize "$golden/snappy.parquet" --peek 9)
mv "$dir/libnibble-parquet.so" "$dir/bare"
fails 1 'and libnibble-parquet.so cannot be opened: ' "$dir/bare/nibble" tokenize "$golden/snappy.parquet" --peek 9
"$dir/bare/nibble" tokenize "$golden/snappy.parquet" -t bytes --as-is --val 0 -o "$dir/as-is" -q

if ! [ -f "$(dirname "$nibble")/libnibble-parquet.so" ]; then
    echo "This build has no libnibble-parquet.so: what is said then was tested, reading was not."
    exit 0
fi

# ---- the same tokens as from JSON lines: rows without a value are no documents ----------------------------------------
"$nibble" tokenize "$golden/texts.jsonl" -t bytes --val 0 -o "$dir/want" -q
for name in snappy zstd gzip lz4 brotli bytes; do
    "$nibble" tokenize "$golden/$name.parquet" -t bytes --val 0 -o "$dir/got" -q --force
    cmp "$dir/want/train_000000.bin" "$dir/got/train_000000.bin"
done
"$nibble" tokenize - -t bytes --val 0 -o "$dir/got" -q --force < "$golden/zstd.parquet"
cmp "$dir/want/train_000000.bin" "$dir/got/train_000000.bin"
gzip -c "$golden/gzip.parquet" | "$nibble" tokenize - --field text -t bytes --val 0 -o "$dir/got" -q --force
cmp "$dir/want/train_000000.bin" "$dir/got/train_000000.bin"
"$nibble" tokenize "$golden/snappy.parquet" "$golden/lz4.parquet" -t bytes --val 0.02 -o "$dir/two" | grep -q 'train .*documents'
"$nibble" tokenize "$golden/other.parquet" --field body --peek 20 > "$dir/out"
[ "$(cat "$dir/out")" = "$(printf '8 bytes of text\none two')" ] || { echo "body: $(cat "$dir/out")"; exit 1; }
[ -z "$(ls "$dir/spool")" ]

# ---- what is no column of text ------------------------------------------------------------------------------------------
other() { # FIELD PATTERN
    fails 2 "other.parquet: $2" "$nibble" tokenize "$golden/other.parquet" --field "$1" -t bytes -o "$dir/x" -q
}
other text 'has no column "text"; hint: --field NAME, and this file has columns of text: body, bytes'
other id 'its column "id" is of type INT32; expected a column of strings; hint: --field NAME'
other list 'its column "list" is nested (List); expected'
other parts 'its column "parts" is nested; expected'
other parts.text 'has no column "parts.text"'
other pair 'its column "pair" is of type FIXED_LEN_BYTE_ARRAY'
other bytes 'its column "bytes" has zeros inside of its rows'
fails 2 'empty.parquet: the text is empty' "$nibble" tokenize "$golden/empty.parquet" -t bytes -o "$dir/x" -q
TMPDIR=/nowhere fails 1 'temporary file in /nowhere (TMPDIR names another folder): cannot open' \
    "$nibble" tokenize "$golden/zstd.parquet" -t bytes -o "$dir/x" -q

# ---- damaged files: one line, or a text where nothing tells -------------------------------------------------------------
printf 'PAR1 and so on' > "$dir/short.parquet"
fails 2 'short.parquet: the Parquet file is damaged, or of a kind' "$nibble" tokenize "$dir/short.parquet" -t bytes -o "$dir/x" -q
size=$(wc -c < "$golden/zstd.parquet")
cut=4
while [ "$cut" -lt "$size" ]; do
    head -c "$cut" "$golden/zstd.parquet" > "$dir/cut.parquet"
    fails 2 'cut.parquet: the Parquet file ' "$nibble" tokenize "$dir/cut.parquet" --peek 9
    cut=$((cut + 131))
done
at=4
while [ "$at" -lt "$size" ]; do
    { head -c "$at" "$golden/zstd.parquet"; printf '\377'; tail -c +$((at + 2)) "$golden/zstd.parquet"; } > "$dir/bent.parquet"
    got=0
    "$nibble" tokenize "$dir/bent.parquet" -t bytes --val 0 -o "$dir/bent" -q --force > "$dir/out" 2> "$dir/err" || got=$?
    case $got in
    0) cmp -s "$dir/want/train_000000.bin" "$dir/bent/train_000000.bin" || changed="${changed:-} $at" ;;
    1 | 2) [ "$(wc -l < "$dir/err")" = 1 ] || { echo "byte $at: not one line"; cat "$dir/err"; exit 1; } ;;
    *) echo "byte $at: exit $got"; cat "$dir/err"; exit 1 ;;
    esac
    at=$((at + 61))
done
# Its pages carry checksums, so that no damage of theirs passes for another text.
[ -z "${changed:-}" ] || { echo "another text, and not a word, by bytes:$changed"; exit 1; }
