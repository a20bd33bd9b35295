#!/bin/sh
# The losses that a GPU is held to are those of this CPU, within their bound; here, too, a run repeats itself and goes on.
# Usage: test_equivalence.sh NIBBLE SOURCE_DIR
set -eu
OMP_NUM_THREADS=1
export OMP_NUM_THREADS
"$2/scripts/gpu-equivalence" --nibble "$1" --backend cpu --only '^llama nvfp4|^gla bf16|^ngpt nvfp4-ngpt'
"$2/scripts/gpu-equivalence" --nibble "$1" --backend cpu --moves --only '^gla bf16$'
