#!/bin/sh
# test_attack.sh NIBBLE SOURCE: scripts/attack in short, and on a run that rolls back; `make attack` is the whole of it.
faults=$(dirname "$1")/libfaults.so
[ -e "$faults" ] || exit 77
set -e
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What the layer does to names: a folder that is being removed is there again, or gone as far as it was removed.
cut() { # WHAT: before the folder itself goes
    mkdir -p "$work/folder/within" && echo one > "$work/folder/within/file"
    (NIBBLE_FAULT=rename:3:$1 LD_PRELOAD=$(realpath "$faults") rm -r "$work/folder") 2> /dev/null && exit 1
    find "$work/folder" | wc -l
    rm -rf "$work/folder"
}
[ "$(cut kill)$(cut names)" = 11 ] || { echo "what was removed is there" && exit 1; }
[ "$(cut all)" = 3 ] || { echo "what was removed is not there again" && exit 1; }
# Of twenty names that were taken away some are there again: not all, not none.
rm -rf "$work/folder" && mkdir "$work/folder"
for i in $(seq 20); do : > "$work/folder/$i"; done
(NIBBLE_FAULT=rename:21:some LD_PRELOAD=$(realpath "$faults") rm -r "$work/folder") 2> /dev/null && exit 1
left=$(find "$work/folder" -type f | wc -l)
{ [ "$left" -gt 3 ] && [ "$left" -lt 17 ]; } || { echo "$left of 20 names are there again" && exit 1; }
rm -rf "$work/folder"

RECIPES="nvfp4 rollback" "$2/scripts/attack" "$1" "$faults" 3
