#!/bin/sh
# What ./demo.sh trains, by what `nibble info --backend cuda` answers; both run files are good.
# Usage: test_demo_gpu.sh NIBBLE SOURCE_DIR
set -eu
nibble=$1
cd "$2"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A nibble that answers as on a machine with a GPU, or as on one without.
cat > "$work/with" << 'ANSWER'
#!/bin/sh
[ "$*" = "info --backend cuda" ] && echo "cuda        GPU 0 of 1: NVIDIA H100 80GB HBM3"
ANSWER
cat > "$work/without" << 'ANSWER'
#!/bin/sh
echo "nibble: cuda: this machine has no NVIDIA driver; hint: backend: cpu" >&2
exit 1
ANSWER
chmod +x "$work/with" "$work/without"

expect() { # what, expected, got
    [ "$2" = "$3" ] || { echo "test_demo_gpu: $1: $3, expected $2" >&2; exit 1; }
}

expect "a GPU that is used" examples/demo-gpu.yaml "$(scripts/demo-run "$work/with" gpu 2> "$work/err")"
expect "what is said of it" "" "$(cat "$work/err")"
expect "a GPU without a driver" examples/demo.yaml "$(scripts/demo-run "$work/without" gpu 2> "$work/err")"
expect "why" "There is a GPU, but it is not used: cuda: this machine has no NVIDIA driver; hint: backend: cpu" "$(cat "$work/err")"
expect "no GPU" examples/demo.yaml "$(scripts/demo-run "$work/with" 2> "$work/err")"

"$nibble" plan examples/demo-gpu.yaml > "$work/plan"
grep -q '^llama-60m: llama, .*recipe nvfp4' "$work/plan"
grep -q 'operands as on Hopper' "$work/plan"
