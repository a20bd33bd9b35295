#!/bin/sh
# What the library shows to programs outside is what include/nibble declares: no more, no less, in the archive that is
# installed and in the shared library.   usage: test_symbols.sh NIBBLE SOURCE_DIR
set -eu
build=$(dirname "$1") source=$2
# shellcheck source=tests/script.sh
. "$source/tests/script.sh"

if [ -n "$(sed -n 's/^NIBBLE_SANITIZE:[A-Z]*=//p' "$build/CMakeCache.txt")" ]; then
    echo "a sanitized library is not for other programs"
    exit 77
fi
cmake --build "$build" --target nibble-archive nibble-shared > "$work/log" 2>&1 || fail "build: $(tail -5 "$work/log")"

# Functions of the headers: a name before a parenthesis, outside of comments and macros. nb_mat_of is inline.
cat "$source"/include/nibble/*.h | sed '/^#define.*\\$/,/[^\\]$/d; /^#/d; s|/\*.*\*/||; s|/\*.*||; s|^ \*.*||' |
    grep -o '\bnb_[a-z0-9_]*(' | tr -d '(' | grep -v '^nb_mat_of$' | sort -u > "$work/declared"
[ "$(wc -l < "$work/declared")" -gt 50 ] || fail "few functions were found: $(cat "$work/declared")"
# Each carries the marker.
cat "$source"/include/nibble/*.h | grep -o '^NB_API .*\bnb_[a-z0-9_]*(' | sed 's/.*\b\(nb_[a-z0-9_]*\)($/\1/' |
    sort -u > "$work/marked"
cmp -s "$work/declared" "$work/marked" || fail "declared or marked alone: $(comm -3 "$work/declared" "$work/marked")"

names() { # FLAGS FILE: every name that a linker would see, whatever its kind
    # shellcheck disable=SC2086
    nm $1 --defined-only "$2" 2> /dev/null | awk 'NF == 3 { sub(/@.*/, "", $3); print $3 }' | sort -u
}

names -g "$build/package/libnibble.a" > "$work/archive"
cmp -s "$work/declared" "$work/archive" ||
    fail "libnibble.a and the headers differ (left: headers): $(comm -3 "$work/declared" "$work/archive" | head -20)"
names -D "$build/package/libnibble.so" > "$work/shared"
cmp -s "$work/declared" "$work/shared" ||
    fail "libnibble.so and the headers differ (left: headers): $(comm -3 "$work/declared" "$work/shared" | head -20)"

version=$(sed -n 's/^CMAKE_PROJECT_VERSION:[A-Z]*=//p' "$build/CMakeCache.txt")
[ "$(readelf -d "$build/package/libnibble.so" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')" = "libnibble.so.${version%.*}" ] ||
    fail "soname: $(readelf -d "$build/package/libnibble.so" | grep SONAME)"
[ -f "$build/package/libnibble.so.$version" ] || fail "there is no libnibble.so.$version"
echo "$(wc -l < "$work/declared") functions are declared, marked and exported; nothing else is"
