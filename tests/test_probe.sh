#!/bin/sh
# test_probe.sh NIBBLE SOURCE_DIR: `nibble probe` on small models of both families, and CHON's recipes in training;
# `nibble probe --policy`.
set -eu
nibble=$1 source=$2
# shellcheck source=tests/script.sh
. "$source/tests/script.sh"
cd "$work"

cat > qwen3.yaml << 'END'
{name: small, family: qwen3, vocab: 257, hidden: 64, layers: 2, heads: 2, kv_heads: 1, head_dim: 32, intermediate: 128,
 max_seq: 64}
END
cat > gla.yaml << 'END'
{name: small, family: gla, vocab: 257, hidden: 64, layers: 2, heads: 2, intermediate: 128, max_seq: 64}
END
cat > run.yaml << 'END'
model: ./qwen3.yaml
recipe: chon
out: runs/qwen3
data: {train: "data/train_*.bin", val: "data/val_*.bin", tokenizer: data}
steps: 6
seq: 32
micro_batch: 2
eval: {every: 3, sequences: 8}
checkpoint: {every: 3}
END
sed 's/share: 0.06/share: 0.25/; s/refresh: 200/refresh: 2/' "$source/recipes/chon.yaml" > chon.yaml
"$nibble" tokenize "$source/docs/training.md" --tokenizer bytes --val 0.2 --split blank -o data > /dev/null

for family in qwen3 gla; do
    set -- --set model=./$family.yaml --set out=runs/$family --set recipe=./chon.yaml
    "$nibble" train run.yaml "$@" > trained
    last=runs/$family/checkpoints/step-00000006

    # CHON's census: what is protected is not quantized, what is quantized is patched
    grep -q 'hcp 16 of 64 channels' runs/$family/census.txt || fail "$family: nothing is patched"
    protected='layers.0.self_attn.v_proj' quantized='layers.0.self_attn.o_proj'
    [ $family = qwen3 ] || protected='layers.0.attn.o_proj' quantized='layers.0.attn.v_proj'
    grep "$protected .*fprop" runs/$family/census.txt | grep -q 'keep.modules' || fail "$family: $protected is quantized"
    grep "$quantized .*fprop" runs/$family/census.txt | grep -q 'hcp' || fail "$family: $quantized is not patched"

    # the channels that training chose are those of its checkpoint
    reported=$(sed -n 's/^step 6  validation loss \([0-9.]*\) .*/\1/p' trained)
    evaluated=$("$nibble" eval $last | sed -n 's/^loss \([0-9.]*\) .*/\1/p')
    [ "$(printf '%.4f' "$evaluated")" = "$reported" ] || fail "$family: eval $evaluated, training $reported"
    # ... for whoever asks for the recipe by name too; without channels of its own a patch is said to begin anew
    named=$("$nibble" eval $last --recipe ./chon.yaml)
    [ "$(echo "$named" | sed -n 's/^loss \([0-9.]*\) .*/\1/p')" = "$evaluated" ] || fail "$family: by name: $named"
    printf 'name: half\nbase: ./chon.yaml\nhcp: {share: 0.5}\n' > half.yaml
    "$nibble" eval $last --recipe ./half.yaml | grep -q '^half chose its channels from the first batch: .* does not hold .*hcp' ||
        fail "$family: another share of channels goes unsaid"
    rm -r $last
    "$nibble" train run.yaml "$@" --resume -q
    [ "$("$nibble" eval $last | sed -n 's/^loss \([0-9.]*\) .*/\1/p')" = "$evaluated" ] || fail "$family: resumed"

    "$nibble" probe $last --recipe nvfp4 --data 'data/val_*.bin' --sequences 8 > table
    modules='self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj'
    [ $family = qwen3 ] || modules='attn.q_proj attn.gk_proj.0 attn.gk_proj.1 attn.o_proj attn.g_proj'
    for module in $modules mlp.gate_proj mlp.up_proj mlp.down_proj all; do
        grep -q "^$module  *[0-9,]*  *[01]\.[0-9]*  *[0-9.]*  *[-+][0-9.]*  *[-+][0-9.]*$" table ||
            fail "$family: no row of $module: $(cat table)"
    done
    # none is the BF16 loss, all is the recipe's without its keep list, and shares add up to 1 twice
    bf16=$("$nibble" eval $last --recipe bf16 | sed -n 's/^loss \([0-9.]*\) .*/\1/p')
    grep -q "^none (bf16)  *$bf16\$" table || fail "$family: bf16 is $bf16: $(cat table)"
    printf 'name: bare\nbase: nvfp4\nkeep: {last_blocks: 0}\n' > bare.yaml
    bare=$("$nibble" eval $last --recipe ./bare.yaml | sed -n 's/^loss \([0-9.]*\) .*/\1/p')
    [ "$(awk '$1 == "all" {print $4}' table)" = "$bare" ] || fail "$family: all is $bare: $(cat table)"
    awk '$4 ~ /\./ {sum += $3} END {exit !(sum > 1.998 && sum < 2.002)}' table || fail "$family: shares: $(cat table)"
done
# a format a layer: the smallest within the budget, which trains; what has no blocks of it takes another
"$nibble" probe runs/qwen3 --policy cheap.yaml --budget 1 --steps 1 --formats mxfp4,nvfp4 > table
grep -q '14 in mxfp4 (4.25 bits), 0 in nvfp4 (4.5 bits), 0 in bf16' table || fail "budget 1: $(cat table)"
"$nibble" probe runs/qwen3 --policy exact.yaml --budget 0 --steps 1 > table
grep -q '14 in bf16 (16 bits)$' table || fail "budget 0: $(cat table)"
"$nibble" probe runs/qwen3 --policy some.yaml --budget 0.1 --steps 2 --formats '{format: mxfp4}, mxfp8' > table
awk '$1 ~ /^layers/ {want = $2 <= 0.1 ? "mxfp4" : $3 <= 0.1 ? "mxfp8" : "bf16"; if (index($0, want) == 0) exit 1}' table ||
    fail "budget 0.1: $(cat table)"
grep -q '^layers.1.mlp.down_proj .* mxfp8$' table || fail "budget 0.1: $(cat table)"
"$nibble" probe runs/gla --policy gate.yaml --budget 1 --steps 1 --formats hifloat4 > table
grep -q '^layers.0.attn.gk_proj.1 *inf .* bf16$' table || fail "16 wide: $(cat table)"
grep -q '^layers.0.mlp.up_proj .* hifloat4$' table || fail "64 wide: $(cat table)"
"$nibble" recipe check ./some.yaml > /dev/null
"$nibble" train run.yaml --set recipe=./some.yaml --set out=runs/some -q
grep 'layers.1.mlp.down_proj .*wgrad' runs/some/census.txt | grep -q 'mxfp8 1x32 sr rht16' || fail "$(cat runs/some/census.txt)"
"$nibble" train run.yaml --set recipe=./exact.yaml --set out=runs/exact -q
"$nibble" train run.yaml --set recipe=bf16 --set out=runs/plain -q
cmp runs/exact/checkpoints/step-00000006/model.safetensors runs/plain/checkpoints/step-00000006/model.safetensors ||
    fail "a policy of BF16 alone is not BF16"
printf 'base: nvfp4\nname: bad\npolicy: {formats: [mxfp4], layers: ["mlp.up_proj 01"]}\n' > bad.yaml
expect 2 "expected '.' or an index of the 1 policy.formats" "$nibble" recipe check ./bad.yaml
expect 2 "--budget: -1; expected 0 or more" "$nibble" probe runs/qwen3 --policy none.yaml --budget -1
expect 2 "--steps: 0; expected 1 or more" "$nibble" probe runs/qwen3 --policy none.yaml --steps 0
expect 2 "--sequences: -1; expected 0 (all) or more" "$nibble" probe runs/qwen3 --recipe nvfp4 --sequences -1
[ ! -e none.yaml ] || fail "a refused probe writes a recipe"
expect 2 "quantizes nothing" "$nibble" probe "$last" --recipe bf16
