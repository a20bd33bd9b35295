#!/bin/sh
# test_bench_quantize.sh NIBBLE SOURCE_DIR: the benchmark checks every bit under each instruction set, and refuses nonsense.
set -eu
nibble=$1
for isa in scalar portable auto; do
    out=$("$nibble" bench quantize --shape 128x256 --seconds 0.001 --threads 1 --isa "$isa")
    echo "$out" | grep -q 'wgrad.dy' || { echo "isa $isa: no row for wgrad.dy"; exit 1; }
    echo "$out" | grep -q 'copy' || { echo "isa $isa: no copy beside it"; exit 1; }
done
for bad in 128 128x 0x128 128x20 axb 128x256x3; do
    if "$nibble" bench quantize --shape "$bad" --seconds 0.001 >/dev/null 2>&1; then
        echo "--shape $bad was taken"
        exit 1
    fi
done
