#!/bin/sh
# docs/new-mechanism.md, done: one file and one row (with its record) make a mechanism that recipes can name. The source tree
# is copied, so this builds the library once more.   usage: test_new_mechanism.sh NIBBLE SOURCE_DIR
set -eu
build=$(dirname "$1") source=$2
# shellcheck source=tests/script.sh
. "$source/tests/script.sh"

cached() { # NAME: what CMake was told
    sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"
}

if [ -n "$(cached NIBBLE_SANITIZE)" ]; then
    echo "builds with the compiler's defaults elsewhere"
    exit 77
fi
mkdir "$work/tree"
cp -r "$source/CMakeLists.txt" "$source/cmake" "$source/include" "$source/src" "$source/recipes" "$source/models" \
    "$source/machines" "$source/LICENSE" "$source/NOTICE" "$work/tree"
cd "$work/tree"

# The whole change, as the page has it.
cp "$source/tests/new_mechanism/gain.c" src/linear/
awk '/^```c$/ { inside = 1; part++; next } /^```$/ { inside = 0 } inside { print > ("'"$work"'/part." part) }' \
    "$source/docs/new-mechanism.md"
sed 's/$/ \\/' "$work/part.2" > "$work/row"
awk -v record="$work/part.1" -v row="$work/row" '
    function copy(file) { while ((getline line < file) > 0) print line }
    /^\/\* All mechanisms in the order/ { copy(record) }
    { print }
    /^#define NB_MECHANISMS\(X\)/ { copy(row) }' "$source/include/nibble/recipe.h" > include/nibble/recipe.h
for line in '} nb_gain;' 'X(gain'; do
    grep -q "$line" include/nibble/recipe.h || fail "recipe.h was not changed as the page says: no $line"
done

{
    cmake -S . -B build -DNIBBLE_TESTS=OFF -DCMAKE_C_COMPILER="$(cached CMAKE_C_COMPILER)" \
        -DCMAKE_C_COMPILER_LAUNCHER="$(cached CMAKE_C_COMPILER_LAUNCHER)" -DNIBBLE_CARRIED="$(cached NIBBLE_CARRIED)" &&
        cmake --build build -j 2 --target nibble-cli
} > "$work/log" 2>&1 || fail "build: $(tail -20 "$work/log")"
nibble=$work/tree/build/nibble

cd "$work"
printf 'base: nvfp4\nname: nvfp4-gain\nkeep: {last_blocks: 0}\ngain: {by: 3, start: 2}\n' > gain.yaml
printf 'base: nvfp4\nname: nvfp4-plain\nkeep: {last_blocks: 0}\n' > plain.yaml
"$nibble" help --keys recipe | grep -q 'what dW is multiplied by' || fail "help does not tell of its keys"
"$nibble" recipe show ./gain.yaml | grep -q 'start: 2' || fail "recipe show: $("$nibble" recipe show ./gain.yaml)"
printf 'base: nvfp4\nname: bad\ngain: {by: 0}\n' > bad.yaml
! "$nibble" recipe check ./bad.yaml 2> error || fail "gain.by: 0 was accepted"
grep -q 'bad.yaml:3.*gain.by' error || fail "the message: $(cat error)"

"$nibble" tokenize "$source/docs/training.md" --tokenizer bytes --val 0 -o data > log
for recipe in gain plain; do
    printf 'model: llama-tiny\nrecipe: ./%s.yaml\nout: run-%s\ndata: {train: "data/train_*.bin"}\nsteps: 4\nseq: 32\nmicro_batch: 2\nthreads: 1\nclip: 0\n' \
        $recipe $recipe > run.yaml
    "$nibble" train run.yaml --set print_every=1 --set peak_flops=none > log 2>&1 || fail "train: $(cat log)"
    sed -n 's/.*"step": *\([0-9]*\),.*"norm": *\([0-9.e+-]*\).*/\1 \2/p' run-$recipe/metrics.jsonl > norms.$recipe
done
[ "$(wc -l < norms.gain)" = 4 ] || fail "metrics: $(cat run-gain/metrics.jsonl)"
[ "$(head -2 norms.gain)" = "$(head -2 norms.plain)" ] || fail "steps before the start: $(paste norms.gain norms.plain)"
# Linear layers have all of the norm but for embeddings, norms and the head.
paste -d ' ' norms.gain norms.plain | awk 'NR == 3 && !($2 > 1.2 * $4) { exit 1 }' ||
    fail "step 3: $(paste norms.gain norms.plain)"
"$nibble" eval run-gain/checkpoints/* --data 'data/train_*.bin' > log 2>&1 || fail "eval: $(cat log)"
echo "gain: one file and one row"
