#!/bin/sh
# test_plan.sh NIBBLE SOURCE_DIR: `nibble plan` as a user meets it: without data, from run files and model files, with
# and without a machine; its table is that of `nibble train`.
set -eu
nibble=$1 source=$2
# shellcheck source=tests/script.sh
. "$source/tests/script.sh"
cd "$work"

cat > run.yaml << 'END_OF_RUN'
model: llama-tiny
out: runs/a
data: {train: "data/train_*.bin", tokenizer: data}
steps: 4
seq: 64
micro_batch: 2
accumulation: 3
eval: {every: 0}
checkpoint: {every: 0}
lens: {every: 0}
peak_flops: none
threads: 1
END_OF_RUN

# ---- a run file: no data is there, none is needed, nothing is written -------------------------------------------------
"$nibble" plan run.yaml > plan
grep -q "^llama-tiny: llama, 6.8M parameters; recipe bf16$" plan || fail "head: $(head -1 plan)"
grep -q "step 2 of 4: 3 x 2 sequences of 64 tokens, 384 in all" plan || fail "step: $(sed -n 2p plan)"
[ ! -e runs ] || fail "a plan made a run folder"
same() { # two plans, but for what was measured of this process
    for file; do sed '/measured here/d; /most that the process/d' "$file" > "$file.same"; done
    cmp "$1.same" "$2.same"
}
"$nibble" plan run.yaml > again
same again plan || fail "two plans of one run differ"
"$nibble" plan run.yaml --set recipe=nvfp4 --step 1 > first
grep -q "recipe nvfp4" first && grep -q "gemm.* nvfp4 1x16 x nvfp4 16x16\|multiply nvfp4 1x16 x nvfp4 16x16" first ||
    fail "products of nvfp4 are not listed"

# ---- the papers' own runs: a plan of each, whose first lines are what the papers say -----------------------------------
paper() { # NAME MODEL STEPS BATCH
    (cd "$source" && "$nibble" plan "examples/papers/full/$1.yaml") > plan || fail "$1 has no plan"
    grep -q "^$2: " plan || fail "$1: $(head -1 plan)"
    grep -q "step 2 of $3: .* $4 in all" plan || fail "$1: $(sed -n 2p plan)"
}
paper tetrajet-v2-70m olmo2-70m 12505 4194304
paper tetrajet-v2-150m olmo2-150m 25500 4194304
paper tetrajet-v2-370m olmo2-370m 50500 4194304
paper chon-gla-340m gla-340m 19074 524288
paper chon-gla-1.3b gla-1.3b 14306 4194304
paper chon-qwen3-1.7b qwen3-1.7b 14306 4194304
paper fp4-llama-1.3b llama-1.3b 23842 4194304
paper fp4-llama-7b llama-7b 23842 4194304
paper fp4-llama-13b llama-13b 23842 4194304
[ "$(ls "$source"/examples/papers/full | wc -l)" = 9 ] || fail "a run of examples/papers/full is not planned here"

# ---- the table of a training run, in MiB, within 5 % --------------------------------------------------------------------
cp "$source/docs/ledger.md" text.txt
"$nibble" tokenize text.txt --tokenizer bytes --val 0.1 -o data > /dev/null
mib() { # of the rows on stdin: "what   12.3 MiB"
    awk '{ for (i = 2; i <= NF; i++) if ($i ~ /iB$/) sum += $(i - 1) * ($i == "GiB" ? 1024 : $i == "KiB" ? 1 / 1024 : 1) }
         END { print sum }'
}
for recipe in bf16 nvfp4 tetrajet-v2 fp4-dge-occ averis nvfp4-ngpt; do
    model=llama-tiny
    [ $recipe = nvfp4-ngpt ] && model=ngpt-tiny
    "$nibble" plan run.yaml --set recipe=$recipe --set model=$model > plan
    "$nibble" train run.yaml --set recipe=$recipe --set model=$model --set out=runs/$recipe --set steps=1 > train 2> warnings
    of_plan=$(sed -n '/^memory/,/total/p' plan | grep -v "total\|working memory of the processor" | mib)
    of_run=$(sed -n '/^memory/,/total/p' train | grep -v "total\|program and libraries" | mib)
    awk -v a="$of_plan" -v b="$of_run" 'BEGIN { exit !(b > 10 && a > 0.95 * b && a < 1.05 * b) }' ||
        fail "$recipe: plan says $of_plan MiB, the run $of_run MiB"
    ! grep "in the place of the" train || fail "$recipe: the run holds something else than its table"
done

# A run that by plan does not fit ends before it allocates, with its table, in a moment.
"$nibble" train run.yaml --set model=llama-70b --set out=runs/large > train 2> warnings && fail "a run of a 70B model"
grep -qE "^nibble: cpu: no room for the run: by plan it takes [0-9.]* GiB, and .* are left; .*; hint: memory_check: false" warnings ||
    fail "a run without room: $(cat warnings)"
[ "$(grep -cE '^memory$|^  parameters \(f32\)  |^  total  ' train)" = 3 ] || fail "no memory table before a run without room"
[ ! -e runs/large ] || fail "a run without room left a folder"

grep -q "^  unit_vectors  *44 " plan || fail "nGPT: the plan brings no weights back to length 1: $(cat plan)"

# ---- a model alone: by file, by name ------------------------------------------------------------------------------------
"$nibble" plan "$source/models/llama-1.3b.yaml" > by-file
"$nibble" plan llama-1.3b > by-name
same by-file by-name || fail "a model's name and its file differ"
grep -q "1 x 4 sequences of 2048 tokens" by-file || fail "the default batch of a model: $(sed -n 2p by-file)"
"$nibble" plan llama-tiny | grep -q "sequences of 1024 tokens" || fail "max_seq does not bound the default sequence"
# Products are 6 FLOPs a weight and token; with 6 of the 7 halves of attention that the formula counts, its sum.
awk '$1 == "bf16" && /products/ { products = $(NF - 2) }
     $1 == "attention" && /softmax/ { attention = $(NF - 2) }
     /formula of MFU/ { formula = $NF }
     END { off = (products + 6 / 7 * attention) / formula - 1; exit !(formula > 0 && off < 1e-6 && off > -1e-6) }' by-file ||
    fail "FLOPs are not those of the formula: $(sed -n '/^arithmetic/,/formula/p' by-file)"

# ---- machines ---------------------------------------------------------------------------------------------------------
"$nibble" plan llama-1.3b --set recipe=nvfp4 --machine h100 > timed
grep -q "operands as on Hopper" timed && grep -q "^on h100 at least [0-9.]* ms a step, at most [0-9]* tokens/s$" timed ||
    fail "no time on h100"
grep -q "^rates.work of h100 is unknown: counted by bytes alone$" timed || fail "what has no rate is not said"
for machine in "$source"/machines/*.yaml; do
    "$nibble" plan run.yaml --machine "$machine" > /dev/null || fail "$machine"
done
printf 'name: slow\noperands: hopper\nbandwidth: 1e9\ncall: 1\n' > slow.yaml
calls=$("$nibble" plan run.yaml --machine ./slow.yaml | awk '$1 == "total" { calls = $2 } END { print calls }')
"$nibble" plan run.yaml --machine ./slow.yaml | awk -v calls="$calls" '/^on slow at least/ { ms = $5 }
    END { exit !(calls > 100 && ms >= calls * 1000 && ms < calls * 1000 + 60000) }' || fail "calls are not paid for"

# ---- many ranks ---------------------------------------------------------------------------------------------------------
# Of G bytes of gradients 2 G 7/8 stay inside of machines of eight, 2 G / 8 * 3/4 go between four of them; the exchange takes
# them at the links' rates, and the step is the sum.
printf 'name: toy\nbandwidth: 1e11\npeak: 1e12\nmemory: 1e6\nlinks: {near: {ranks: 8, rate: 2e9}, far: {rate: 1e9}}\n' > toy.yaml
"$nibble" plan llama-tiny --machine ./toy.yaml --ranks 32 > many
grep -q "^32 ranks: 4 x 8, each with 1 of the 32 micro-batches$" many || fail "ranks: $(grep ranks many)"
awk '$1 == "gradients" && $3 ~ /iB$/ { g = $2 * 1048576 }
     $1 == "gradients" && NF == 5 && $2 ~ /\./ && !/iB/ { near = $2 * 1e9; far = $3 * 1e9; ms = $5 }
     /arithmetic alone/ { alone = $3 }
     /and the exchange after it/ { with = $6 }
     function off(a, b) { return a > 1.01 * b || a < 0.99 * b }
     END { exit off(near, 2 * g * 7 / 8) || off(far, 2 * g / 8 * 3 / 4) || off(ms, (near / 2e9 + far / 1e9) * 1e3) ||
                off(with, alone + ms) }' many || fail "bytes on links: $(tail -n 14 many)"
[ "$(grep -c 'more than the 976.6 KiB of a rank' many)" = 1 ] || fail "memory that does not suffice is not said"
[ "$("$nibble" plan llama-tiny --set share=gradients --machine ./toy.yaml --ranks 32 | grep -c 'more than the 976.6 KiB of a rank')" = 4 ] ||
    fail "what is left of memory where it is shared out"
# Of weights, those of linear layers and the embedding (4096 x 256) in BF16 and the norms as masters, a rank sends its 32nd to each other: 7 of its machine, 24 elsewhere.
"$nibble" plan llama-tiny --set share=moments --machine ./toy.yaml --ranks 32 > many
awk '$1 == "gradients" && $3 ~ /iB$/ { g = $2 * 1048576 }
     /weights in bf16/ { b = $4 * 1048576 + 4096 * 256 * 2 }
     $1 == "weights" && $2 == "(share:" { near = $4 * 1e9; far = $5 * 1e9; ms = $7 }
     function off(a, b) { return a > 1.01 * b || a < 0.99 * b }
     function unlike(a, b) { return a - b > 6e4 || b - a > 6e4 } # printed are tenths of a MB
     END { exit b == 0 || unlike(near, (g - b) * 7 / 32) || unlike(far, (g - b) * 24 / 32) ||
                off(ms, (g - b) * (7 / 32 / 2e9 + 24 / 32 / 1e9) * 1e3) }' many ||
    fail "weights on links: $(tail -n 14 many)"
"$nibble" plan run.yaml --set accumulation=4 --machine ./toy.yaml --ranks 2 > share
grep -q "step 2 of 4: 2 x 2 sequences" share || fail "a rank's share: $(sed -n 2p share)"
expect 2 "4 micro-batches a step cannot be shared out over 3 ranks" "$nibble" plan run.yaml --set accumulation=4 --machine ./toy.yaml --ranks 3
expect 2 "12 ranks do not fill machines of 8" "$nibble" plan llama-tiny --machine ./toy.yaml --ranks 12
expect 2 "links.near.rate of machine h100 is unknown\|links.far.rate of machine h100 is unknown" "$nibble" plan llama-tiny --machine h100 --ranks 2
expect 2 "and --machine, which says" "$nibble" plan llama-tiny --ranks 2
# Units for four bits, where the run asks for them: the products of codes take less, and nothing else.
"$nibble" plan llama-1.3b --set recipe=nvfp4 --machine b200-nvlink-ib > decoded
"$nibble" plan llama-1.3b --set recipe=nvfp4 --set native_fp4=true --machine b200-nvlink-ib > native
for row in "multiply nvfp4 1x16 x nvfp4 16x16" "multiply bf16 x bf16" make_operands; do
    a=$(grep "^  $row" decoded | awk '{ print $(NF - 3) }') b=$(grep "^  $row" native | awk '{ print $(NF - 3) }')
    case $row in
    *nvfp4*) awk -v a="$a" -v b="$b" 'BEGIN { exit !(b < a / 2) }' || fail "$row: $a ms decoded, $b ms on 4-bit units" ;;
    *) [ "$a" = "$b" ] || fail "$row: $a ms decoded, $b ms on 4-bit units" ;;
    esac
done

# ---- mistakes -----------------------------------------------------------------------------------------------------------
expect 2 "did you mean" "$nibble" plan run.yaml --machine h10
printf 'name: x\nbandwidth: 1e9\nrates: {bf61: 1e9}\n' > bad.yaml
expect 2 "bad.yaml:3: .*bf61" "$nibble" plan run.yaml --machine ./bad.yaml
expect 2 "expected 1 to 4" "$nibble" plan run.yaml --step 5
expect 2 "unknown key 'sqe'" "$nibble" plan llama-tiny --set sqe=3
expect 2 "max_seq" "$nibble" plan llama-tiny --set seq=4096
mkdir -p runs/past && : > runs/past/run.yaml
expect 2 "model: ./runs/past is a run folder; expected one of its checkpoints" "$nibble" plan ./runs/past
expect 2 "nibble plan RUN.yaml" "$nibble" train run.yaml --set backend=paper
