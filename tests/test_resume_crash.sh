#!/bin/sh
# test_resume_crash.sh NIBBLE SOURCE_DIR: a few rounds of scripts/crash-test; `make crash-test` does hundreds.
set -eu
exec "$2/scripts/crash-test" 6 bf16 "$1"
