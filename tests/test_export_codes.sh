#!/bin/sh
# `nibble export --to compressed-tensors | modelopt | gguf` and `nibble quantize FOLDER`: what they write, say and refuse.
# The bits are tests/test_serve.c's.   usage: test_export_codes.sh NIBBLE SOURCE_DIR
set -eu
nibble=$1 golden=$2/tests/golden/hf
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

fails() { # PATTERN COMMAND...
    pattern=$1
    shift
    ! "$@" > out 2> err || { echo "did not fail: $*"; exit 1; }
    grep -q -- "$pattern" err || { echo "no '$pattern' in:"; cat err; exit 1; }
    [ -z "$(find . -name '*.tmp-*' -o -name x -o -name x.gguf)" ] || { echo "left something: $*"; exit 1; }
}
says() { # PATTERN FILE
    grep -q -- "$1" "$2" || { echo "no '$1' in $2:"; head -c 2000 "$2" | cat -v; exit 1; }
}

# A run of one step, whose checkpoint knows its recipe.
head -c 20000 "$2/docs/formats.md" > text.txt
"$nibble" tokenize text.txt --tokenizer bytes -o data > log
cat > run.yaml <<'YAML'
model: llama-tiny
recipe: nvfp4
out: run
data: {train: "data/train_*.bin", tokenizer: data}
steps: 1
seq: 32
micro_batch: 1
YAML
"$nibble" train run.yaml --set model.vocab=272 --set model.hidden=64 --set model.layers=2 --set model.intermediate=128 > log 2>&1

"$nibble" export run --to gguf -o run.gguf > out
says 'run.gguf: llama, 7 of 15 layers in NVFP4 by recipe nvfp4, the rest in BF16' out
says 'in BF16: layers.1.self_attn.q_proj and others (keep.last_blocks)' out
says 'in BF16: lm_head (keep.modules)' out
[ "$(head -c 4 run.gguf)" = GGUF ]
says tokenizer.ggml.merges run.gguf
says blk.0.attn_q.scale run.gguf

fails 'no power of two in the block scales' "$nibble" export run --to compressed-tensors -o x
"$nibble" export run --to compressed-tensors --fused own -o own > out
says 'decoded as nibble decodes: bit for bit' out
says '"format": "nvfp4-pack-quantized"' own/config.json
says 'model.layers.0.mlp.up_proj.weight_global_scale' own/model.safetensors
says '"input_activations": null' own/config.json
[ -s own/tokenizer.json ]
"$nibble" export run --to modelopt --fused again --calibrate text.txt -o again > out
says '5 layers have other codes than were trained' out
says '"quant_algo": "NVFP4"' again/hf_quant_config.json
says 'model.layers.0.self_attn.o_proj.input_scale' again/model.safetensors
"$nibble" export run --to modelopt --fused own -o weights > out
says '"quant_algo": "W4A16_NVFP4"' weights/config.json
! grep -q input_scale weights/model.safetensors || exit 1

# What no reader has is written as numbers, or refused where nothing else is left; what is lost is said.
"$nibble" export run --to gguf --recipe tetrajet-v2 -o numbers.gguf > out
says 'no layer in codes by recipe tetrajet-v2' out
says 'neither plain NVFP4 nor plain MXFP4' out
fails 'there are no codes to export; --to hf' "$nibble" export run --to compressed-tensors --recipe tetrajet-v2 -o x
"$nibble" export run --to compressed-tensors --recipe tetrajet-v1 -o mx > out
says 'in MXFP4 by recipe tetrajet-v1' out
says 'not in it: qema: weights are rounded to nearest' out
says '"format": "mxfp4-pack-quantized"' mx/config.json
fails 'ModelOpt.s folders hold NVFP4' "$nibble" export run --to modelopt --recipe tetrajet-v1 -o x
fails 'a part of it in BF16' "$nibble" export run --to compressed-tensors --recipe chon -o x
"$nibble" export run --to gguf --recipe chon -o chon.gguf > out
says 'not in it: hcp' out

fails 'was not trained by nibble' "$nibble" export "$golden/llama-text" --to gguf -o x.gguf
cat > all.yaml <<'YAML'
name: all
base: nvfp4
about: no block is kept in BF16
keep: {modules: [embedding, lm_head], first_blocks: 0, last_blocks: 0}
YAML
"$nibble" export "$golden/llama-text" --to gguf --recipe all.yaml -o theirs.gguf > out
says 'columns do not make whole blocks of 64' out
says tokenizer.ggml.scores theirs.gguf
mkdir pairs
cp "$golden/llama-text/config.json" "$golden/llama-text/model.safetensors" pairs
cat > pairs/tokenizer.json <<'JSON'
{"added_tokens": [{"id": 3, "content": "<end>", "special": true}], "pre_tokenizer": {"type": "ByteLevel"},
 "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}}
JSON
"$nibble" export pairs --to gguf --recipe bf16 -o pairs.gguf > out
says tokenizer.ggml.pre pairs.gguf
says gpt-2 pairs.gguf
says 'a b' pairs.gguf
sed -i 's/"a": 0/"a": 4000/' pairs/tokenizer.json
fails "token 'a' has no id below" "$nibble" export pairs --to gguf --recipe bf16 -o x.gguf
sed -i 's/"ByteLevel"/"Metaspace"/' pairs/tokenizer.json
fails 'how it cuts a text is not known' "$nibble" export pairs --to gguf --recipe bf16 -o x.gguf
fails 'no tokenizer' "$nibble" export "$golden/qwen3-bf16" --to gguf --recipe nvfp4 -o x.gguf
fails 'exists already' "$nibble" export run --to gguf -o run.gguf
fails 'expected exact, again or own' "$nibble" export run --to modelopt --fused all -o x
fails 'are for codes' "$nibble" export run --recipe nvfp4 -o x
fails 'llama.cpp chooses the numbers' "$nibble" export run --to gguf --calibrate text.txt -o x.gguf
echo short > short.txt
fails 'expected more than the 32' "$nibble" export run --to modelopt --fused own --calibrate short.txt -o x

# Whole folders.
"$nibble" quantize "$golden/llama-sharded" --as nvfp4 -o codes --dequantized decoded > out
says 'codes: 14 matrices' out
says 'model.layers.0.mlp.up_proj.weight.codes' codes/model.safetensors.index.json
[ "$(find codes -name '*.safetensors' | wc -l)" = 4 ]
[ -s codes/config.json ]
"$nibble" export decoded --type f32 -o loads > out 2> err
"$nibble" quantize decoded --as nvfp4 --dequantized twice > out
fails 'decoded: exists already' "$nibble" quantize decoded --as nvfp4 -o x --dequantized decoded
[ ! -e x ] || exit 1 # nothing is written for the first of two names where the second is taken
fails 'no matrix whose columns' "$nibble" quantize decoded --as nvfp4 --keep '*' -o x
fails 'no .safetensors' "$nibble" quantize data --as nvfp4 -o x
fails '--keep is for folders' "$nibble" quantize "$golden/none.npy" --as nvfp4 --keep '*' -o x
