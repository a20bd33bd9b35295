#!/bin/sh
# test_generate.sh NIBBLE SOURCE_DIR: `nibble generate`: texts begin as transformers begins them, and its options.
set -eu
nibble=$1 source=$2 golden=$2/tests/golden/hf
# shellcheck source=tests/script.sh
. "$source/tests/script.sh"
cd "$work"

# ---- greedy texts of transformers (scripts/check_transformers.py golden), by a folder as its maker left it -------------
cp -r "$golden/llama-text" theirs
for opens in true false; do
    printf '{"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": %s}' $opens \
        > theirs/tokenizer_config.json
    expected=theirs/expected-bare.txt
    [ $opens = false ] || expected=theirs/expected-opened.txt
    [ "$(wc -l < $expected)" = 3 ] || fail "$expected has not three lines"
    while IFS="$(printf '\t')" read -r prompt text; do
        "$nibble" generate theirs --prompt "$prompt" --tokens 12 --temperature 0 > out
        [ "$(cat out)" = "$text" ] || fail "add_bos_token $opens: '$prompt' goes on as '$(cat out)', expected '$text'"
    done < $expected
done

# The same where transformers wrote "no limit" as an integer of 31 digits, and where version 5 saved it: the tokenizer.json
# says what opens a text, and the other file says nothing of it.
template() { # OPENING: a tokenizer.json with it; the rest of the file is never looked at
    printf '{"model": {"type": "BPE"}, "post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, {
        "type": "TemplateProcessing", "single": [%s{"Sequence": {"id": "A", "type_id": 0}}]}]}}' "$1"
}
long='"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "model_max_length": 1000000000000000019884624838656'
for case in long-opened json-opened json-bare; do
    case $case in
    long*) printf '{%s, "add_bos_token": true}' "$long" > theirs/tokenizer_config.json ;;
    json-opened) template '{"SpecialToken": {"id": "<s>", "type_id": 0}}, ' > theirs/tokenizer.json ;;
    json-bare) template '' > theirs/tokenizer.json ;;
    esac
    [ $case = long-opened ] || printf '{%s}' "$long" > theirs/tokenizer_config.json
    while IFS="$(printf '\t')" read -r prompt text; do
        "$nibble" generate theirs --prompt "$prompt" --tokens 12 --temperature 0 > out
        [ "$(cat out)" = "$text" ] || fail "$case: '$prompt' goes on as '$(cat out)', expected '$text'"
    done < theirs/expected-${case#*-}.txt
done
rm theirs/tokenizer.json

# A class that opens texts where its file does not say so, and an export of such a folder as it was.
printf '{"tokenizer_class": "LlamaTokenizer", "bos_token": {"content": "<s>"}}' > theirs/tokenizer_config.json
"$nibble" export theirs -o exported > /dev/null 2>&1
cmp theirs/tokenizer_config.json exported/tokenizer_config.json || fail "a foreign tokenizer changed on export"
grep -q '"bos_token_id": 1' exported/config.json || fail "the export's bos_token_id is not the folder's"
while IFS="$(printf '\t')" read -r prompt text; do
    [ "$("$nibble" generate exported --prompt "$prompt" --tokens 12 --temperature 0)" = "$text" ] || fail "export: $prompt"
done < theirs/expected-opened.txt

"$nibble" tokenize "$source/docs/training.md" --train-tokenizer 600 -o wide > /dev/null
expect 2 "wide: 600 tokens, and the model's vocab is" "$nibble" generate exported --tokenizer wide

# ---- what nibble trains opens texts with end-of-text, and says so ------------------------------------------------------
cat > run.yaml << 'END'
model: ./theirs
out: run
data: {train: "data/train_*.bin", tokenizer: theirs}
steps: 1
seq: 16
micro_batch: 1
threads: 1
peak_flops: none
END
"$nibble" tokenize "$2/docs/training.md" --tokenizer theirs --val 0 -o data -q
"$nibble" train run.yaml --from theirs -q
trained=run/checkpoints/step-00000001
grep -q '"bos_token": "</s>"' $trained/tokenizer_config.json || fail "bos_token: $(cat $trained/tokenizer_config.json)"
grep -q '"add_bos_token": true' $trained/tokenizer_config.json || fail "add_bos_token: $(cat $trained/tokenizer_config.json)"
grep -q '"bos_token_id": 2' $trained/config.json || fail "bos_token_id: $(cat $trained/config.json)"
"$nibble" tokenize "$2/docs/training.md" --tokenizer bytes --val 0 -o bytes -q
tr -d ' \n' < bytes/tokenizer.json | grep -q '"post_processor":{"type":"TemplateProcessing","single":\[{"SpecialToken":{"id":"<|endoftext|>"' ||
    fail "the bytes tokenizer does not open texts"

# What else the file of another maker says stays where nibble opens texts its own way.
cp -r theirs limitless
printf '{%s, "add_bos_token": true}' "$long" > limitless/tokenizer_config.json
"$nibble" train run.yaml --from limitless --set out=limited -q
grep -q '"tokenizer_class": "LlamaTokenizer"' limited/checkpoints/step-00000001/tokenizer_config.json ||
    fail "the tokenizer's class is lost: $(cat limited/checkpoints/step-00000001/tokenizer_config.json)"

# ---- byte-level BPE: a folder as Qwen's are, from texts over training and resumption to an export --------------------------
cat > tokenizer_config.json << 'END'
{"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>", "bos_token": null, "add_bos_token": false}
END
cp "$2/tests/golden/tokenizers/qwen.json" tokenizer.json
"$nibble" tokenize "$2/docs/training.md" --tokenizer tokenizer.json --val 0 -o pairs -q
qwen="--set data.train=pairs/train_*.bin --set model.layers=1 --set model.hidden=64 --set model.intermediate=64"
# shellcheck disable=SC2086 # a list of words
"$nibble" train run.yaml -q $qwen --set model=qwen3-tiny --set model.vocab=509 --set data.tokenizer=tokenizer.json --set out=maker
cp -r maker/checkpoints/step-00000001 qwen
rm qwen/nibble.json qwen/optimizer.safetensors
cp tokenizer.json tokenizer_config.json qwen # as its maker has them
"$nibble" generate qwen --prompt 'a user' --tokens 4 | grep -q '^a user' || fail "generate from a folder with tokenizer.json"
"$nibble" train run.yaml -q --from qwen --set model=./qwen --set 'data.train=pairs/train_*.bin' --set data.tokenizer=qwen \
    --set out=on --set steps=2 --set checkpoint.every=1
rm -r on/checkpoints/step-00000002
"$nibble" train run.yaml -q --resume --set model=./qwen --set 'data.train=pairs/train_*.bin' --set data.tokenizer=qwen \
    --set out=on --set steps=2 --set checkpoint.every=1
trained=on/checkpoints/step-00000002
tr -d ' \n' < $trained/tokenizer.json | grep -q '"single":\[{"SpecialToken":{"id":"<|endoftext|>"' || fail "a run's tokenizer.json opens no texts"
grep -q '"tokenizer_class": "Qwen2Tokenizer"' $trained/tokenizer_config.json || fail "the class is lost: $(cat $trained/tokenizer_config.json)"
"$nibble" tokenize "$2/docs/training.md" --tokenizer $trained --val 0 -o again -q
cmp pairs/train_000000.bin again/train_000000.bin || fail "the tokenizer of a checkpoint gives other ids"
"$nibble" export $trained -o pairs-exported > out
cmp $trained/tokenizer.json pairs-exported/tokenizer.json || fail "the export has another tokenizer.json"
"$nibble" generate $trained --prompt 'the model' --tokens 8 --temperature 0 > a
"$nibble" generate pairs-exported --prompt 'the model' --tokens 8 --temperature 0 --recipe bf16 > b
"$nibble" generate $trained --prompt 'the model' --tokens 8 --temperature 0 --tokenizer tokenizer.json > c
[ -s a ] && [ -s b ] && [ -s c ]

# ---- kept keys and values: the same text as without them, across the end of the window ---------------------------------
"$nibble" train run.yaml -q --set model=gla-tiny --set data.tokenizer=bytes --set 'data.train=bytes/train_*.bin' \
    --set out=gla --set model.vocab=257 --set model.layers=1 --set model.hidden=64 --set model.intermediate=64
for folder in theirs run gla; do
    for recipe in bf16 nvfp4; do
        [ $folder != theirs ] || [ $recipe = bf16 ] || continue # its width is no block
        "$nibble" generate $folder --prompt 'the model' --tokens 40 --recipe $recipe > kept
        "$nibble" generate $folder --prompt 'the model' --tokens 40 --recipe $recipe --no-cache > anew
        cmp kept anew || fail "$folder, $recipe: keeping keys and values changes the text: $(cat kept anew)"
    done
done
"$nibble" generate theirs --prompt 'the model' --tokens 12 --top-p 1e-6 > narrow
"$nibble" generate theirs --prompt 'the model' --tokens 12 --temperature 0 | cmp - narrow || fail "--top-p near 0 is not greedy"
! "$nibble" generate theirs --top-p 0 > out 2> err || fail "--top-p 0 was taken"
grep -q 'expected above 0' err || fail "--top-p: $(cat err)"
