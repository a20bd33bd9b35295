#!/bin/sh
# `make install`, and programs in C that use what was installed through pkg-config.   usage: test_install.sh NIBBLE SOURCE_DIR
set -eu
build=$(dirname "$1") source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

cached() { # NAME: what CMake was told
    sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"
}

if [ -n "$(cached NIBBLE_SANITIZE)" ]; then
    echo "a sanitized library is not for other programs"
    exit 77
fi
DESTDIR=$work/root cmake --install "$build" > "$work/log" || fail "install: $(cat "$work/log")"
prefix=$work/root$(cached CMAKE_INSTALL_PREFIX)
PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name nibble.pc)")
export PKG_CONFIG_PATH

# Every function that the installed headers declare is in the installed library.
library=$(find "$prefix" -name libnibble.a)
nm -g --defined-only "$library" 2> /dev/null | sed -n 's/^.* T //p' | sort -u > "$work/defined"
sed 's|/\*.*||; s|^ \*.*||' "$prefix"/include/nibble/*.h | grep -o 'nb_[a-z0-9_]*(' | tr -d '(' | grep -v '^nb_mat_of$' |
    sort -u > "$work/declared"
[ -z "$(comm -23 "$work/declared" "$work/defined")" ] ||
    fail "declared and not defined: $(comm -23 "$work/declared" "$work/defined")"

# Three programs, from the installed headers alone.
for name in quantize train watch; do
    # shellcheck disable=SC2046 # a list of words
    $(cached CMAKE_C_COMPILER) -std=c11 -Wall -Wextra -Wpedantic -Werror "$source/examples/$name.c" \
        $(pkg-config --define-variable=prefix="$prefix" --cflags --libs nibble) -o "$work/$name" || fail "$name.c does not compile"
done
"$work/quantize" > "$work/out"
grep -q '^{format: nvfp4, block: 1x16}, tensor scale' "$work/out" || fail "quantize: $(cat "$work/out")"
[ "$(grep -c '^row . .*codes [0-9a-f]\{32\}$' "$work/out")" = 4 ] || fail "quantize: $(cat "$work/out")"
grep -q '^relative error 0\.[01]' "$work/out" || fail "quantize: $(cat "$work/out")"

cd "$work"
nibble=$prefix/bin/nibble
"$nibble" tokenize "$source/docs/training.md" --tokenizer bytes --val 0 -o data > log
printf 'model: llama-tiny\nrecipe: nvfp4\nout: run\ndata: {train: "data/train_*.bin"}\nsteps: 5\nseq: 32\nmicro_batch: 2\nthreads: 1\n' > run.yaml
./train run.yaml "$(pkg-config --define-variable=prefix="$prefix" --variable=datadir nibble)" > mine
"$nibble" train run.yaml --set print_every=1 --set peak_flops=none > theirs
for step in 1 5; do
    line=$(grep "^step $step  " mine) || fail "train: $(cat mine)"
    loss=$(echo "$line" | sed 's/.*loss \([0-9.]*\) .*/\1/')
    grep -q "^step $step/5  loss *$loss " theirs || fail "the program says $line, nibble $(cat theirs)"
done
./watch run.yaml "$(pkg-config --define-variable=prefix="$prefix" --variable=datadir nibble)" > seen
[ "$(grep -c '^step 1  layers\.[0-9]*\.mlp\.[a-z_]*  *[0-9]' seen)" -gt 1 ] || fail "watch: $(cat seen)"
grep -q '^3 steps were watched' seen || fail "watch: $(cat seen)"
