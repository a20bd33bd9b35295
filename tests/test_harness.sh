#!/bin/sh
# The table of tests/backends shows what a backend refuses, goes on, and holds it to the rest.
# Usage: test_harness.sh NIBBLE SOURCE_DIR
set -eu
harness=$(dirname "$1")/test_backends
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

check() { # what, status that is expected, status that came
    [ "$2" = "$3" ] || { echo "$1: exit status $3, expected $2" >&2; cat "$work/out" >&2; exit 1; }
}

status=0
NIBBLE_TEST_REFUSES=attention "$harness" --backend guarded:portable --only '^attention' > "$work/out" || status=$?
check "a refusal alone" 0 $status
grep -q '^    not supported, 1 of [0-9]* shapes: shape 1: guarded: attention with heads of 24' "$work/out"
grep -q '^attention_forward attention_ .* ok$' "$work/out"

status=0
NIBBLE_TEST_REFUSES=attention "$harness" --backend guarded:portable --only '^attention' --whole > "$work/out" || status=$?
check "a refusal where nothing may be refused" 1 $status

status=0
"$harness" --backend guarded:portable --only '^attention' --whole > "$work/out" || status=$?
check "nothing refused" 0 $status

# Every operation is in one group, and one only, of those that scripts/gpu-sanitize runs under a sanitizer.
awk '/<< .GROUPS./ { on = 1; next } /^GROUPS$/ { on = 0 } on { print $2 }' "$2/scripts/gpu-sanitize" > "$work/patterns"
"$harness" --list | cut -d : -f 1 | sort -u > "$work/operations"
while read -r operations; do
    found=0
    while read -r pattern; do
        if echo "$operations" | grep -qE "$pattern"; then found=$((found + 1)); fi
    done < "$work/patterns"
    [ $found = 1 ] || { echo "gpu-sanitize: \"$operations\" is in $found groups, expected 1" >&2; exit 1; }
done < "$work/operations"

# Its verdicts, over a tool that is none: a text for each tool, and a harness that is not run.
mkdir -p "$work/carry/launches" "$work/tools"
cp "$2/scripts/gpu-sanitize" "$work/carry"
: > "$work/carry/test_backends"
cat > "$work/tools/compute-sanitizer" << 'END_OF_TOOL'
#!/bin/sh
[ "$1" = --help ] && echo "  --kernel-name-exclude arg" && exit
echo "$CUDA_VISIBLE_DEVICES $NIBBLE_PRODUCTS $*" >> asked.txt
tool=$2
case "$tool $*" in
racecheck*none*) ;;
racecheck*) echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)" ;;
memcheck*1/8) echo "========= Invalid __global__ write of size 4 bytes" && echo "========= ERROR SUMMARY: 1 error" && exit 9 ;;
memcheck*2/8) echo "========= Error: internal error: failed to handle a hardware exception" && exit 1 ;;
memcheck*3/8) sleep 30 ;;
memcheck*4/8) echo "gemm  rows  cuda  2  1  FAILED" && echo "========= ERROR SUMMARY: 0 errors" && exit 1 ;;
initcheck*) ;;
*) echo "========= ERROR SUMMARY: 0 errors" ;;
esac
END_OF_TOOL
chmod +x "$work/tools/compute-sanitizer"
status=0
PATH=$work/tools:$PATH LIMIT=2 JOBS=4 GPUS=2 "$work/carry/gpu-sanitize" all products memory > "$work/out" || status=$?
check "pieces with findings" 1 $status
says() {
    grep -qE "$1" "$work/out" || { echo "gpu-sanitize: expected $1" >&2; cat "$work/out" >&2; exit 1; }
}
says '^memcheck   products   1/8 .* finding: Invalid __global__ write'
says '^memcheck   products   2/8 .* tool.s error: Error: internal error: failed to handle'
says '^memcheck   products   3/8 .* cut off at 2 s'
says '^memcheck   products   4/8 .* harness: status 1: gemm .*FAILED'
says '^memcheck   products   4 of 8: '
says '^racecheck  products   clean$'
says '^synccheck  memory     clean$'
says '^initcheck  memory     1 of 1: tool.s error: it left no summary$'
[ "$(grep -c '^[01] none --tool racecheck .*launches/test_backends' "$work/carry/asked.txt")" = 8 ] || { echo "gpu-sanitize: racecheck with products" >&2; exit 1; }
[ "$(cut -c 1 "$work/carry/asked.txt" | sort -u | tr -d '\n')" = 01 ] || { echo "gpu-sanitize: one GPU of two" >&2; exit 1; }
[ "$(grep -c '^' "$work/carry/asked.txt")" = "$(grep -c ' s  ' "$work/out")" ] || { echo "gpu-sanitize: pieces are missing" >&2; exit 1; }
PATH=$work/tools:$PATH "$work/carry/gpu-sanitize" synccheck memory codes > "$work/out"
[ "$(grep -c ' s  clean$' "$work/out")" = 3 ] || { echo "gpu-sanitize: pieces of two groups" >&2; exit 1; }
