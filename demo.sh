#!/bin/sh
# demo.sh: watch a language model train in 4-bit floating point, on this machine, in about ten minutes.
#
# Usage: ./demo.sh [--quick] [TEXT.txt]
#
#   TEXT.txt   what to learn from (default: a dictionary of English, 40 MB, from Debian's archive)
#   --quick    a few steps only, to see that everything works
#
# It installs the missing Debian packages if it may (and says what to type if not), builds nibble, trains a tokenizer,
# trains one small LLaMA-type model twice on the same data and seeds, in BF16 and with NVIDIA's NVFP4 recipe, compares
# the two and writes a report. Everything lands in demo-run/; run it again and it goes on where it stopped.
set -eu
