#!/bin/sh
# `make install`, and programs in C that use what was installed, through pkg-config and through CMake.   usage: test_install.sh NIBBLE SOURCE_DIR
set -eu
build=$(dirname "$1") source=$2
# shellcheck source=tests/script.sh
. "$source/tests/script.sh"

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
LD_LIBRARY_PATH=$(dirname "$PKG_CONFIG_PATH") # of a build with BUILD_SHARED_LIBS
export PKG_CONFIG_PATH LD_LIBRARY_PATH

# Five programs, from the installed headers alone.
for name in quantize train watch continue linear; do
    # shellcheck disable=SC2046 # a list of words
    $(cached CMAKE_C_COMPILER) -std=c11 -Wall -Wextra -Wpedantic -Werror "$source/examples/$name.c" \
        $(pkg-config --define-variable=prefix="$prefix" --cflags --libs nibble) -lm -o "$work/$name" || fail "$name.c does not compile"
done
"$work/quantize" > "$work/out"
grep -q '^{format: nvfp4, block: 1x16}, tensor scale' "$work/out" || fail "quantize: $(cat "$work/out")"
[ "$(grep -c '^row . .*codes [0-9a-f]\{32\}$' "$work/out")" = 4 ] || fail "quantize: $(cat "$work/out")"
grep -q '^relative error 0\.[01]' "$work/out" || fail "quantize: $(cat "$work/out")"

"$work/linear" nvfp4 "$prefix/share/nibble" > "$work/out.linear" || fail "linear: $(cat "$work/out.linear")"
[ "$(grep -c '^[fdw][a-z]* *nvfp4 ' "$work/out.linear")" = 3 ] || fail "linear: $(cat "$work/out.linear")"
awk '/^step/ { error[++n] = $4 } END { exit !(n == 2 && error[2] < error[1] / 10) }' "$work/out.linear" ||
    fail "linear does not learn: $(cat "$work/out.linear")"
for file in man/man1/nibble.1 man/man1/nibble-train.1 bash-completion/completions/nibble; do
    [ -s "$prefix/share/$file" ] || fail "share has no $file"
done
for file in LICENSE NOTICE docs/tour.md examples/watch.c; do
    [ -f "$prefix/share/doc/nibble/$file" ] || fail "share/doc/nibble has no $file"
done

# The same through CMake, against the archive and against libnibble.so, which this build may not install by itself.
cmake --build "$build" --target nibble-shared > "$work/log" 2>&1 || fail "libnibble.so: $(tail -5 "$work/log")"
DESTDIR=$work/root cmake --install "$build" --component shared > "$work/log" || fail "install: $(cat "$work/log")"
mkdir "$work/user"
cat > "$work/user/CMakeLists.txt" << CMAKE
cmake_minimum_required(VERSION 3.18)
project(user LANGUAGES C)
set(CMAKE_C_STANDARD 11)
find_package(nibble $(cached CMAKE_PROJECT_VERSION) REQUIRED)
foreach(kind static shared nibble)
  add_executable(quantize_\${kind} $source/examples/quantize.c)
  target_link_libraries(quantize_\${kind} PRIVATE nibble::\${kind} m) # it calls sqrt
endforeach()
CMAKE
{
    cmake -S "$work/user" -B "$work/user/build" -DCMAKE_PREFIX_PATH="$prefix" \
        -DCMAKE_C_COMPILER="$(cached CMAKE_C_COMPILER)" && cmake --build "$work/user/build"
} > "$work/log" 2>&1 || fail "find_package(nibble): $(tail -20 "$work/log")"
for kind in static shared nibble; do
    "$work/user/build/quantize_$kind" > "$work/out.$kind"
    cmp -s "$work/out" "$work/out.$kind" || fail "quantize_$kind says: $(cat "$work/out.$kind")"
done
readelf -d "$work/user/build/quantize_static" | grep -q 'NEEDED.*libnibble' && fail "quantize_static needs libnibble.so"
readelf -d "$work/user/build/quantize_shared" | grep -q 'NEEDED.*libnibble\.so\.[0-9]*\.[0-9]*\]' ||
    fail "quantize_shared does not ask for a version: $(readelf -d "$work/user/build/quantize_shared" | grep NEEDED)"
readelf -d "$work/user/build/quantize_shared" | grep -qi 'NEEDED.*sentencepiece' &&
    fail "quantize_shared links what only libnibble.so needs"

# A build that is asked for the library: it is part of all, and what it installs needs nothing else by name. Its objects are
# those of this build.
cmake -S "$source" -B "$work/asked" -DBUILD_SHARED_LIBS=ON -DNIBBLE_TESTS=OFF -DCMAKE_INSTALL_PREFIX="$(cached CMAKE_INSTALL_PREFIX)" \
    -DCMAKE_C_COMPILER="$(cached CMAKE_C_COMPILER)" -DCMAKE_CXX_COMPILER="$(cached CMAKE_CXX_COMPILER)" > "$work/log" 2>&1 ||
    fail "BUILD_SHARED_LIBS=ON: $(tail -5 "$work/log")"
cmake --build "$work/asked" --target help > "$work/targets"
grep -q 'nibble-shared' "$work/targets" || fail "BUILD_SHARED_LIBS=ON: no target nibble-shared"
cp -rP "$build/package" "$build/nibble" "$build"/libnibble*.so "$work/asked/"
DESTDIR=$work/with cmake --install "$work/asked" > "$work/log" 2>&1 || fail "install of libnibble.so: $(tail -5 "$work/log")"
with=$work/with$(cached CMAKE_INSTALL_PREFIX) libraries=$(dirname "$(find "$work/with" -name 'libnibble.so')")
[ -d "$libraries/pkgconfig" ] || fail "BUILD_SHARED_LIBS=ON installs no libnibble.so: $(find "$with" -name '*nibble*')"
# shellcheck disable=SC2046 # a list of words
PKG_CONFIG_PATH=$libraries/pkgconfig "$(cached CMAKE_C_COMPILER)" -std=c11 "$source/examples/quantize.c" -o "$work/asked/quantize" \
    $(PKG_CONFIG_PATH=$libraries/pkgconfig pkg-config --define-variable=prefix="$with" --cflags --libs nibble) -lm ||
    fail "quantize.c against libnibble.so does not compile"
readelf -d "$work/asked/quantize" | grep -q 'NEEDED.*libnibble\.so\.[0-9]*\.[0-9]*\]' || fail "pkg-config gives the archive"
LD_LIBRARY_PATH=$libraries "$work/asked/quantize" > "$work/out.asked"
cmp -s "$work/out" "$work/out.asked" || fail "quantize with libnibble.so says: $(cat "$work/out.asked")"

cd "$work"
nibble=$prefix/bin/nibble
"$nibble" tokenize "$source/docs/training.md" --tokenizer bytes --val 0 -o data > log
printf 'model: llama-tiny\nrecipe: nvfp4\nout: run\ndata: {train: "data/train_*.bin", tokenizer: data}\nsteps: 5\nseq: 32\nmicro_batch: 2\nthreads: 1\n' > run.yaml
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

# Tokenizer, sampling, steps of a model, report and lens from a program: the text is that of nibble generate.
OMP_NUM_THREADS=1 ./continue run 'A run file' 12 > went
OMP_NUM_THREADS=1 "$nibble" generate run --prompt 'A run file' --tokens 12 --temperature 0 > generated
[ "$(sed '$d' went)" = "$(cat generated)" ] || fail "continue: $(cat went), nibble generate: $(cat generated)"
grep -q '^[1-9][0-9]* series, [1-9][0-9]* points$' went || fail "continue reads no lens: $(cat went)"
[ -s continue.html ] || fail "continue wrote no report"
