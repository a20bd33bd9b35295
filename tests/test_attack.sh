#!/bin/sh
# test_attack.sh NIBBLE SOURCE: scripts/attack in short, and on a run that rolls back; `make attack` is the whole of it.
[ -e "$(dirname "$1")/libfaults.so" ] || exit 77
RECIPES="nvfp4 rollback" exec "$2/scripts/attack" "$1" "$(dirname "$1")/libfaults.so" 3
