#!/bin/sh
# `nibble export`: folders of transformers come out whole; bad input is refused.   usage: test_files_export.sh NIBBLE SOURCE_DIR
set -eu
nibble=$1 golden=$2/tests/golden/hf
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fails() { # PATTERN COMMAND...
    pattern=$1
    shift
    ! "$@" > "$dir/out" 2> "$dir/err" || { echo "did not fail: $*"; exit 1; }
    grep -q -- "$pattern" "$dir/err" || { echo "no '$pattern' in:"; cat "$dir/err"; exit 1; }
    [ -z "$(find "$dir" -name '*.tmp-*' -o -name x)" ] || { echo "left something: $*"; exit 1; }
}

"$nibble" export "$golden/llama-sharded" --to hf --type f32 -o "$dir/f32" 2> "$dir/err"
"$nibble" export "$dir/f32" --type f32 -o "$dir/again" 2> "$dir/err"
cmp "$dir/f32/model.safetensors" "$dir/again/model.safetensors"
cmp "$dir/f32/config.json" "$dir/again/config.json"
grep -q '"rope_theta": 5000' "$dir/f32/config.json"
"$nibble" export "$golden/qwen3-bf16" -o "$dir/bf16" 2> "$dir/err" | grep -q 'qwen3, .* tensors as BF16'
"$nibble" export "$dir/bf16" -o "$dir/bf16-again" 2> "$dir/err" > /dev/null
cmp "$dir/bf16/model.safetensors" "$dir/bf16-again/model.safetensors"

fails 'expected bf16, f16 or f32' "$nibble" export "$dir/f32" --type int8 -o "$dir/x"
fails 'expected hf, compressed-tensors, modelopt or gguf' "$nibble" export "$dir/f32" --to onnx -o "$dir/x"
mkdir "$dir/ngpt"
sed 's/"model_type": "[a-z0-9]*"/"model_type": "ngpt-nibble"/' "$dir/f32/config.json" > "$dir/ngpt/config.json"
for to in hf gguf; do fails 'family ngpt' "$nibble" export "$dir/ngpt" --to $to -o "$dir/x"; done
fails 'exists already' "$nibble" export "$dir/f32" -o "$dir/bf16"
fails 'exists already' "$nibble" export "$dir/none" -o "$dir/bf16" # looked at before what may take long to read
fails 'config.json' "$nibble" export "$dir" -o "$dir/x"
mkdir "$dir/broken"
cp "$dir/f32/config.json" "$dir/broken"
head -c 5000 "$dir/f32/model.safetensors" > "$dir/broken/model.safetensors"
fails 'truncated or damaged' "$nibble" export "$dir/broken" -o "$dir/x"
