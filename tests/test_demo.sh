#!/bin/sh
# test_demo.sh NIBBLE SOURCE_DIR: ./demo.sh --quick on texts that are short, and what it says last, as it is printed.
# Set-up is left out: this program is built.
set -eu
nibble=$1 source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

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
for text in "a short text" one-line; do
    ./demo.sh --quick "$text.txt" > out 2> err || fail "$text: $(cat out err)"
    begins=$(head -c 8 "$text.txt")
    sed -n '/^6. What/,$p' out | grep -qF "$begins" || fail "$text: the prompt is not the text's beginning: $(cat out)"
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

! "$nibble" tokenize tiny.txt --train-tokenizer 300 -o x > out 2> err || fail "120 bytes were tokenized"
grep -q '120 bytes of text are too few' err || fail "tokenize: $(cat err)"
! grep -q 'training a tokenizer' err || fail "tokenize: trained before it refused: $(cat err)"
