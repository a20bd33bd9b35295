#!/bin/sh
# Python over libnibble.so: the records of ctypes are those of the headers, quantize and dequantize give the bytes of `nibble
# quantize`, the example of docs/python.md runs. Needs no package; numpy is tried where it is there.
# usage: test_python.sh NIBBLE SOURCE_DIR
set -eu
build=$(dirname "$1") source=$2
command -v python3 > /dev/null || { echo "there is no python3" && exit 77; }
if [ -n "$(sed -n 's/^NIBBLE_SANITIZE:[A-Z]*=//p' "$build/CMakeCache.txt")" ]; then
    echo "a sanitized library is not for other programs"
    exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --build "$build" --target nibble-shared > "$work/log" 2>&1 || { tail -5 "$work/log" && exit 1; }
PYTHONPATH=$source/python PYTHONDONTWRITEBYTECODE=1 NIBBLE_LIBRARY=$build/package/libnibble.so \
    exec python3 "$source/tests/python_checks.py" "$1" "$source" "$work" "$(sed -n 's/^CMAKE_C_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt")"
