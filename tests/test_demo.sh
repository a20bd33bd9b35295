#!/bin/sh
# test_demo.sh NIBBLE SOURCE_DIR: ./demo.sh --quick on texts that are short, and what it says last, as it is printed.
# Set-up is left out: this program is built.
set -eu
nibble=$1 source=$2
# shellcheck source=tests/script.sh
. "$source/tests/script.sh"
cd "$work"

mkdir scripts build
cp "$source/scripts/demo-run" scripts
cp -r "$source/demo.sh" "$source/examples" "$source/models" "$source/recipes" .
printf 'name: small\nfamily: llama\nvocab: 4096\nhidden: 128\nlayers: 1\nheads: 2\nintermediate: 128\nmax_seq: 512\n' > small.yaml
sed -i 's/^model: .*/model: .\/small.yaml/' examples/demo.yaml # seconds in place of minutes
printf '#!/bin/sh\n' > scripts/setup
chmod +x scripts/setup
ln -s "$nibble" build/nibble

head -c 348 "$source/docs/training.md" > "a short text.txt"
head -c 20000 "$source/docs/training.md" | tr '\n' ' ' > one-line.txt # a single document
# Texts that are not as they stand in the file: JSON lines in gzip; a first word that is longer than a prompt.
head -c 3000 "$source/docs/training.md" | tr -d '\042\134' | tr '\n\t' '  ' | sed 's/^.*$/{"id": 1, "text": "&"}/' | gzip > lines.jsonl.gz
i=0
while [ $i -lt 60 ]; do # 12 characters of three bytes, no spaces
    printf '\344\270\255\346\226\207\346\226\207\346\234\254\344\270\255\346\226\207\346\226\207\346\234\254'
    i=$((i + 1))
done > chinese.txt
for text in "a short text.txt" one-line.txt lines.jsonl.gz chinese.txt; do
    ./demo.sh --quick "$text" > out 2> err || fail "$text: $(cat out err)"
    case $text in
    lines*) begins=$(head -c 8 one-line.txt) ;;
    chinese*) begins=$(head -c 24 chinese.txt) ;;
    *) begins=$(head -c 8 "$text") ;;
    esac
    grep -F "$text" out | grep -qF "beginning: $begins" || fail "$text: its beginning is not shown: $(cat out)"
    sed -n '/^6. What/{n;p;q;}' out | grep -qF "$begins" || fail "$text: the prompt is not the text's beginning: $(cat out)"
    [ "$text" != chinese.txt ] || continue
    sed -n 's/^Another one, same twin: //p' out > hint
    [ -s hint ] || fail "$text: no last hint: $(cat out)"
    (cd / && sh "$work/hint") > again 2> err || fail "$text: the last hint fails: $(cat hint err)"
    grep -q 'bf16 seed 1: is finished' again || fail "$text: the hint does not take the twin that is there: $(cat again)"
    grep -q '^fp4-direct .*%' again || fail "$text: the hint compares nothing: $(cat again)"
done

# Too short is said before anything is trained.
head -c 120 "$source/docs/training.md" > tiny.txt
! ./demo.sh --quick tiny.txt > out 2> err || fail "120 bytes were enough"
grep -q '120 bytes are too few' err || fail "tiny: $(cat err)"
! grep -q '3. Tokens' out || fail "tiny: was tokenized before it was refused"
[ ! -e demo-run/tiny ] || fail "tiny: left $(find demo-run/tiny)"
gzip -c tiny.txt > tiny.gz
! ./demo.sh --quick tiny.gz > out 2> err || fail "120 packed bytes were enough"
grep -q '120 bytes are too few' err || fail "tiny.gz: $(cat err)"

# What is refused leaves nothing, so that the same name works when the text is mended.
iconv -f UTF-8 -t UTF-16 "a short text.txt" > wide.txt
! ./demo.sh --quick wide.txt > out 2> err || fail "UTF-16 was taken"
grep -q 'iconv -f UTF-16' err || fail "wide: $(cat err)"
[ ! -e demo-run/wide ] || fail "wide: left $(find demo-run/wide)"
iconv -f UTF-16 -t UTF-8 wide.txt > mended && mv mended wide.txt
./demo.sh --quick wide.txt > mended.log 2> err || fail "mended: $(cat err)"
echo >> wide.txt
! ./demo.sh --quick wide.txt > out 2> err || fail "another text under the same name"
grep -q 'is not the text that demo-run/wide was made from' err || fail "changed: $(cat err)"

# The README shows what is printed today: headings, the table's head, the sentences under it.
cp "$source/README.md" .
cp "$source/scripts/readme-transcript" scripts
scripts/readme-transcript mended.log > /dev/null || fail "readme-transcript"
fixed() { # README
    sed -n '/^<!-- transcript/,/^<!-- end/p' "$1" | grep -E '^([0-9]\. |recipe |Gap|This is|\[|model |run |step [0-9]+  val|checkpoint|done in|Done in)' |
        sed -E 's/demo-run[^ :,;]*/FOLDER/; s/[-+]?[0-9][0-9.,]*/N/g; s/llama-[a-z]*|small/NAME/; s/NM|NK|N parameters/N/; s/NK? tokens/N tokens/g; s/N(min|m) Ns/Ns/; s/N min //'
}
fixed "$source/README.md" | sort -u > shown
fixed README.md | sort -u > printed
[ "$(grep -c . printed)" -gt 10 ] || fail "the transcript lacks lines: $(cat printed)"
diff shown printed || fail "README.md shows what ./demo.sh does not print; run scripts/readme-transcript"

! "$nibble" tokenize tiny.txt --train-tokenizer 300 -o x > out 2> err || fail "120 bytes were tokenized"
grep -q '120 bytes of text are too few' err || fail "tokenize: $(cat err)"
! grep -q 'training a tokenizer' err || fail "tokenize: trained before it refused: $(cat err)"
