#!/bin/sh
# test_train_cli.sh NIBBLE SOURCE_DIR: the commands around training, as a user meets them: output, exit status, one line
# for each mistake, nothing half-written.
set -eu
nibble=$1 source=$2
# shellcheck source=tests/script.sh
. "$source/tests/script.sh"
cd "$work"

cat > model.yaml << 'END'
name: small
family: llama
vocab: 257
hidden: 32
layers: 2
heads: 2
kv_heads: 1
head_dim: 16
intermediate: 64
max_seq: 64
END
cat > run.yaml << 'END'
model: ./model.yaml
out: runs/a
data: {train: "data/train_*.bin", val: "data/val_*.bin", tokenizer: data}
steps: 8
seq: 32
micro_batch: 2
eval: {every: 4, sequences: 4}
checkpoint: {every: 4}
print_every: 4
peak_flops: none
END
cp "$source/docs/training.md" text.txt
sed 's/hidden: .*/hidden: 128/' model.yaml > odd.yaml
"$nibble" tokenize text.txt --tokenizer bytes --val 0.2 --split blank -o data > /dev/null

# ---- mistakes: nothing is written -------------------------------------------------------------------------------------
expect 2 "unknown key 'optimiser'; did you mean 'optimizer'" "$nibble" train run.yaml --set optimiser.lr=1
expect 2 "schedule.kind" "$nibble" train run.yaml --set schedule.kind=cosin
expect 2 "steps" "$nibble" train run.yaml --set steps=0
expect 2 "--set out=: the key 'out' is missing" "$nibble" train run.yaml --set out=
expect 2 "did you mean 'optimizer.lr'" "$nibble" train run.yaml --set optimizer.lrr=1
expect 2 "--set model.layers=0: layers: 0 is out of range" "$nibble" train run.yaml --set model.layers=0
expect 2 "--recipes is missing" "$nibble" compare run.yaml --recipes ,
expect 2 "--set recipe=fp8: every run has its own recipe here; hint: --recipes fp8" "$nibble" compare run.yaml \
    --recipes nvfp4 --set recipe=fp8
expect 2 "nvfp5" "$nibble" train run.yaml --set recipe=nvfp5
expect 2 "no-such.yaml: cannot open: No such file" "$nibble" train no-such.yaml
expect 2 "max_seq" "$nibble" train run.yaml --set seq=65
expect 2 "expected one of them" "$nibble" train run.yaml --resume --from x
expect 1 "none" "$nibble" train run.yaml --set 'data.train=none*.bin'
expect 2 "no such folder" "$nibble" train run.yaml --from nowhere
rm -rf runs
head -c 2000 data/train_000000.bin > cut.bin
expect 2 "cut.bin" "$nibble" train run.yaml --set data.train=cut.bin
printf 'this is no shard, whatever its name says' > magic.bin
expect 2 "magic.bin" "$nibble" train run.yaml --set data.train=magic.bin
sed 's/vocab: 257/vocab: 100/' model.yaml > narrow.yaml
expect 2 "vocab" "$nibble" train run.yaml --set model=./narrow.yaml
expect 2 "vocab" "$nibble" train run.yaml --set model=./narrow.yaml --set data.tokenizer=
[ ! -e runs ] || fail "a refused run left files: $(find runs)"

# ---- a run ----------------------------------------------------------------------------------------------------------------
"$nibble" train run.yaml --set peak_flops=auto > trained
for said in 'memory' 'precision census' '^step 4/8  loss' '^step 8  validation loss' 'MFU' 'done in'; do
    grep -q "$said" trained || fail "train does not say '$said': $(cat trained)"
done
for file in run.yaml recipe.yaml census.txt metrics.jsonl checkpoints/step-00000008/config.json; do
    [ -s "runs/a/$file" ] || fail "runs/a/$file is missing"
done
grep -q '"mfu":0' runs/a/metrics.jsonl || fail "no MFU in metrics.jsonl"
grep -q '"light"' runs/a/metrics.jsonl && fail "a share of the speed of light of no machine"
printf 'name: slow\noperands: hopper\nbandwidth: 1e6\n' > slow.yaml
# Light is that of a second step; the first makes weights that the optimizer leaves from there on.
"$nibble" train run.yaml --set machine=./slow.yaml --set out=runs/light --set steps=1 > lit
least=$("$nibble" plan run.yaml --machine ./slow.yaml --set steps=2 | sed -n 's/^on slow at least \([0-9.]*\) ms.*/\1/p')
awk -v least="$least" -F '[:,]' '/"light":/ {
    for (i = 1; i < NF; i++) { if ($i == "\"ms\"") ms = $(i + 1); if ($i == "\"light\"") light = $(i + 1) }
    share = ms * light / least; ok = share > 0.99 && share < 1.01
} END { exit !ok }' runs/light/metrics.jsonl || fail "light is not plan's least time over the step's: $least, $(cat runs/light/metrics.jsonl)"
grep -q 'light *[0-9.]*%' lit || fail "train does not say its share of the speed of light: $(cat lit)"
rm -r runs/light
"$nibble" train runs/a/run.yaml --set peak_flops=1e12 --resume -q || fail "the effective run.yaml does not resume its own run"
expect 2 "holds a run already" "$nibble" train run.yaml

# ---- refused before anything is measured or printed; no folder is left ------------------------------------------------------
quiet() { # as expect, and nothing on stdout
    expect "$@"
    [ ! -s out ] || fail "$*: printed before it was refused: $(cat out)"
}
measured="--set peak_flops=auto"
# shellcheck disable=SC2086 # one option
{
    quiet 2 "holds a run already" "$nibble" train run.yaml $measured
    quiet 2 "another value of steps" "$nibble" train run.yaml $measured --set steps=9 --resume
    quiet 2 "nowhere" "$nibble" train run.yaml $measured --from nowhere --set out=runs/none
    quiet 2 "nosuch" "$nibble" train run.yaml $measured --set model=nosuch --set out=runs/none
    quiet 2 "no machine is called 'nosuch'" "$nibble" train run.yaml $measured --set machine=nosuch --set out=runs/none
    cp -r runs/a/checkpoints/step-00000004 broken
    head -c 3000 runs/a/checkpoints/step-00000004/model.safetensors > broken/model.safetensors
    quiet 2 "broken" "$nibble" train run.yaml $measured --from broken --set out=runs/none
    : > plainfile
    for folder in plainfile plainfile/below /proc/none; do
        quiet 1 "$folder.*cannot make the folder" "$nibble" train run.yaml $measured --set out=$folder
        quiet 1 "${folder%/below}" "$nibble" compare run.yaml $measured --recipes nvfp4 --set out=$folder/x
    done
    quiet 2 "tetrajet-v2: .*block" "$nibble" compare run.yaml $measured --recipes nvfp4,tetrajet-v2 --set out=runs/none \
        --set model=./odd.yaml --set seq=32
    quiet 2 "model: runs/a is a run folder.*hint: runs/a/checkpoints/step-00000008" "$nibble" train run.yaml $measured \
        --set model=runs/a --set out=runs/none
    cp -r runs/a/checkpoints/step-00000008 hf
    quiet 2 "no model is called 'hf'.*hint: ./hf is the folder" "$nibble" train run.yaml $measured --set model=hf \
        --set out=runs/none
    rm -r hf
}
[ ! -e runs/none ] || fail "a refused run left a folder: $(find runs/none)"
[ ! -s plainfile ] || fail "a refused run wrote into a file"
flock runs/a sleep 3 & # as another process that trains there
while flock -n runs/a true; do sleep 0.05; done
# shellcheck disable=SC2086 # one option
quiet 1 "another process is training" "$nibble" train run.yaml $measured --resume
wait
mkdir new
"$nibble" train run.yaml --set out=new/deep/run --set steps=1 --set checkpoint.every=0 --set lens.every=50 > one
grep -q 'oscillation is not measured, because the run has a single step' one || fail "one step: lens is silent: $(cat one)"

# ---- a model said otherwise ---------------------------------------------------------------------------------------------------
"$nibble" train run.yaml --set model.vocab=300 --set model.layers=1 --set steps=2 --set out=runs/other -q
grep -q '"vocab_size": 300' runs/other/checkpoints/step-00000002/config.json || fail "model.vocab is not heard"
grep -q '"num_hidden_layers": 1' runs/other/checkpoints/step-00000002/config.json || fail "model.layers is not heard"
grep -q 'vocab=300' runs/other/run.yaml || fail "the effective run.yaml does not keep model.vocab"
"$nibble" train runs/other/run.yaml --resume -q || fail "a run with a changed model does not resume"
expect 2 "another value of model_changes\|vocab is 300" "$nibble" train runs/other/run.yaml --set model.vocab=301 --resume
expect 2 "vocb" "$nibble" train run.yaml --set model.vocb=300 --set out=runs/none
expect 2 "model.vocab.*is a folder of parameters" "$nibble" train run.yaml --set out=runs/none --set model.vocab=300 \
    --set model=./runs/a/checkpoints/step-00000008

# ---- what is done with its checkpoint ---------------------------------------------------------------------------------------
last=runs/a/checkpoints/step-00000008
reported=$(sed -n 's/^step 8  validation loss \([0-9.]*\) .*/\1/p' trained)
expect 2 "--sequences: -1; expected 0 (all) or more" "$nibble" eval $last --sequences -1
"$nibble" eval $last > out
evaluated=$(sed -n 's/^loss \([0-9.]*\) .*/\1/p' out)
awk -v a="$evaluated" -v b="$reported" 'BEGIN { exit !(a - b <= 5.1e-5 && b - a <= 5.1e-5) }' || # four digits were told
    fail "eval gives $evaluated, training reported $reported"
"$nibble" eval runs/a > newest
cp out first
[ "$(cut -d' ' -f2 newest)" = "$(cut -d' ' -f2 out)" ] || fail "eval of a run folder: $(cat newest)"
"$nibble" eval runs/a --json > json
grep -q '^{"loss": [0-9.]*, "perplexity": [0-9.]*, "tokens": 128, "data": "data/val_\*.bin", "step": 8, "recipe": "bf16"' json ||
    fail "eval --json: $(cat json)"
"$nibble" export runs/a -o newest-hf > /dev/null || fail "export of a run folder"
"$nibble" probe runs/a --recipe nvfp4 --sequences 2 > out || fail "probe of a run folder"
grep -q 'step 8' out || fail "probe of a run folder: $(cat out)"
"$nibble" eval $last --recipe nvfp4 | grep -q 'forward of nvfp4' || fail "eval --recipe"
# A checkpoint that knows no hot channels: they are those of the first batch, not none under the recipe's name.
printf 'base: chon-hcp-only\nname: half\nkeep: {last_blocks: 0}\nhcp: {share: 0.5}\n' > half.yaml
printf 'base: ./half.yaml\nname: none\nhcp: {share: 0}\n' > none.yaml
"$nibble" eval $last --recipe ./none.yaml > none.out 2> none.err
grep -q 'warning: recipe none: hcp patches nothing of' none.err || fail "a share that patches nothing: $(cat none.err)"
"$nibble" eval $last --recipe ./half.yaml > half.out
grep -q 'half chose its channels from the first batch' half.out || fail "eval --recipe half.yaml: who chose its channels?"
[ "$(wc -l < half.out)" = 2 ] || fail "eval says of its state: $(cat half.out)"
[ "$(awk '/^loss/ {print $2}' none.out)" != "$(awk '/^loss/ {print $2}' half.out)" ] || fail "eval patches nothing"
"$nibble" generate $last --prompt 'A step' --tokens 12 --seed 3 > one
"$nibble" generate $last --prompt 'A step' --tokens 12 --seed 3 --threads 1 > two
"$nibble" eval runs/a/checkpoints/ > newest || fail "eval of the checkpoints of a run"
[ "$(cut -d' ' -f2 newest)" = "$(cut -d' ' -f2 first)" ] || fail "eval of the checkpoints of a run: $(cat newest)"
"$nibble" train run.yaml --from runs/a --set out=runs/after --set steps=9 > out || fail "train --from a run folder"
grep -q '^forked from runs/a/checkpoints/step-00000008 at step 8' out || fail "train --from a run folder: $(cat out)"
"$nibble" generate runs/a --prompt 'A step' --tokens 12 --seed 3 | cmp - one || fail "generate from a run folder"
cmp one two || fail "generate is not a function of its seed"
grep -q '^A step' one || fail "generate does not begin with its prompt"
expect 2 "--temperature: -1; expected 0 to 100" "$nibble" generate $last --temperature -1
expect 2 "--seed: -1; expected 0 to 4294967295" "$nibble" generate $last --seed -1
expect 2 "--seed: -1; expected 0 to 4294967295" "$nibble" quantize model.yaml --as nvfp4 -o q.safetensors --seed -1
expect 2 "no such folder" "$nibble" eval runs/b
expect 2 "is at step 8, where this run ends" "$nibble" train run.yaml --from $last --set out=runs/done
expect 2 "is at step 8, where this run ends" "$nibble" compare run.yaml --recipes nvfp4 --from runs/a --set out=done
expect 2 "no such folder; expected a run, or a checkpoint" "$nibble" export runs/b -o b
expect 2 "expected one, as RUN/checkpoints/" "$nibble" eval runs
sed 's/^family: .*/family: qwen3/' model.yaml > family.yaml
expect 2 "family is .* there and qwen3 in model" "$nibble" train run.yaml --from runs/a --set model=./family.yaml --set out=runs/qwen
"$nibble" train run.yaml --from runs/a/checkpoints/step-00000004 --set recipe=nvfp4 --set out=runs/fork -q
grep -q '"step":5,' runs/fork/metrics.jsonl || fail "the fork does not begin at step 4"

# ---- what a recipe is called is none of what it says ----------------------------------------------------------------------
printf 'base: nvfp4\n' > unnamed.yaml
unnamed="run.yaml --set recipe=./unnamed.yaml --set out=runs/unnamed --set steps=2 -q"
"$nibble" train $unnamed
grep -q '^name: unnamed$' runs/unnamed/recipe.yaml || fail "a recipe without a name: $(head -1 runs/unnamed/recipe.yaml)"
printf 'base: nvfp4\nname: nvfp4\n' > unnamed.yaml # as runs recorded it when its name was the base's
"$nibble" train $unnamed --resume || fail "a recipe of another name does not resume its run"
printf 'base: nvfp4\nkeep: {last_blocks: 0}\n' > unnamed.yaml
expect 2 "was made when recipe ./unnamed.yaml said something else" "$nibble" train $unnamed --resume

# ---- patterns that keep nothing are told ---------------------------------------------------------------------------------
printf 'base: nvfp4\nname: typo\nkeep: {modules: [embedding, lm_head, "*.q_proj", "*.q_porj"]}\n' > typo.yaml
"$nibble" train run.yaml --set recipe=./typo.yaml --set out=runs/typo > out
[ "$(grep 'fits no module' out)" = "keep.modules: *.q_porj fits no module of this model; hint: their names are in census.txt" ] ||
    fail "a pattern that fits nothing: $(cat out)"

# ---- a folder that another program wrote -------------------------------------------------------------------------------------
cp -r $last theirs
rm theirs/nibble.json theirs/optimizer.safetensors
"$nibble" eval theirs --data 'data/val_*.bin' | grep -q 'step 0, forward of bf16' || fail "eval of a foreign folder"
"$nibble" generate theirs --prompt 'A step' --tokens 4 | grep -q '^A step' || fail "generate from a foreign folder"
"$nibble" train run.yaml --from theirs --set model=./theirs --set out=runs/theirs --set steps=1 > out
! grep -q 'random' out || fail "trained parameters are called random: $(cat out)"
"$nibble" train run.yaml --set model=./theirs --set out=runs/random --set steps=1 > random 2>&1
grep -q 'begins with random numbers; hint: --from ./theirs' random || fail "random parameters are not said: $(cat random)"
grep -q '^forked from theirs at step 0' out || fail "train --from a foreign folder: $(cat out)"
cmp runs/theirs/checkpoints/step-00000001/tokenizer.json theirs/tokenizer.json || fail "the tokenizer did not go along"
"$nibble" tokenize text.txt --train-tokenizer 600 --split blank -o other > /dev/null
sed 's/vocab: 257/vocab: 600/' model.yaml > wide.yaml
"$nibble" train run.yaml --set model=./wide.yaml --set data.tokenizer=other --set data.train='other/train_*.bin' \
    --set data.val= --set steps=1 --set out=runs/wide -q
expect 2 'data.tokenizer: data (257 tokens) is not the tokenizer of runs/wide' "$nibble" train run.yaml \
    --set model=./wide.yaml --from runs/wide/checkpoints/step-00000001 --set out=runs/mixed
rm -rf runs/mixed

# ---- what a recipe costs ----------------------------------------------------------------------------------------------------
"$nibble" bench train run.yaml --recipes bf16,nvfp4 --seconds 0 --processor-time > out || fail "bench train"
grep -q '^bf16  *[0-9.]*  *[0-9]*  *[0-9.]*  *1.000x$' out || fail "bench train: $(cat out)"
grep -q '^nvfp4  *[0-9.]*  *[0-9]*  *[0-9.]*  *[0-9.]*x$' out || fail "bench train: $(cat out)"
expect 2 "recipes is missing" "$nibble" bench train run.yaml
expect 2 "nvfp5" "$nibble" bench train run.yaml --recipes nvfp4,nvfp5

# ---- signals ----------------------------------------------------------------------------------------------------------------
for signal in TERM INT; do
    if [ $signal = TERM ]; then unset OMP_WAIT_POLICY GOMP_SPINCOUNT; else export OMP_WAIT_POLICY=passive; fi
    "$nibble" train run.yaml --set out=runs/$signal --set steps=1000000 -q 2> err &
    child=$!
    while [ ! -s runs/$signal/metrics.jsonl ]; do sleep 0.05; done
    # Idle threads spin for a moment only, unless the user says otherwise.
    waits=$(tr '\0' '\n' < /proc/$child/environ | grep -E '^(OMP_WAIT_POLICY|GOMP_SPINCOUNT)=')
    if [ $signal = TERM ]; then wanted=GOMP_SPINCOUNT=200; else wanted=OMP_WAIT_POLICY=passive; fi
    [ "$waits" = $wanted ] || fail "how threads wait: $waits, expected $wanted"
    kill -$signal $child
    status=0
    wait $child || status=$?
    [ $status = 1 ] || fail "SIG$signal: status $status"
    [ "$(wc -l < err)" = 1 ] || fail "SIG$signal: not one line: $(cat err)"
    grep -q 'checkpoint written; hint: --resume' err || fail "SIG$signal: $(cat err)"
    [ -n "$(ls runs/$signal/checkpoints)" ] || fail "SIG$signal: no checkpoint"
done

# ---- twins ------------------------------------------------------------------------------------------------------------------
"$nibble" compare run.yaml --recipes nvfp4,bf16 --seeds 2 --set out=twins > out
grep -q '^bf16 .*twin' out || fail "compare: no twin: $(cat out)"
grep -q '^nvfp4 .*%  +- ' out || fail "compare: no gap: $(cat out)"
grep -q '"gap_interval": [0-9]' twins/compare.json || fail "compare.json: no interval: $(cat twins/compare.json)"
grep -qE '^(Apart: |Of these, 1 of 1 pairs is not ranked)' out || fail "compare: says nothing of what is apart: $(cat out)"
[ -d twins/nvfp4-seed2 ] || fail "compare: no folder for the second seed"
rm -r twins/nvfp4-seed2/checkpoints/step-00000008
"$nibble" compare run.yaml --recipes nvfp4 --seeds 2 --set out=twins > again
grep ' +- ' out > gaps
grep ' +- ' again | cmp - gaps || fail "compare given again: $(cat again)"
grep -q 'bf16 seed 1: is finished' again || fail "compare repeats finished runs"
# A line that was lost, as where memory is short: what it said is computed again, and nothing else.
sed '/"step":8,"val_loss"/d' twins/nvfp4-seed2/metrics.jsonl > rest && mv rest twins/nvfp4-seed2/metrics.jsonl
"$nibble" compare run.yaml --recipes nvfp4 --seeds 2 --set out=twins > again || fail "compare without an evaluation's line"
grep ' +- ' again | cmp - gaps || fail "compare without an evaluation's line: $(cat again)"
[ "$(grep -c '"step":8,' twins/nvfp4-seed2/metrics.jsonl)" = 2 ] || fail "a lost evaluation: $(tail -n 3 twins/nvfp4-seed2/metrics.jsonl)"
# The table of runs that are there is the one that compare printed; what ended elsewhere than its twin is told and left out.
"$nibble" report twins --table > again 2> err || fail "report --table: $(cat err)"
grep ' +- ' again | cmp - gaps || fail "report --table: $(cat again)"
[ ! -s err ] || fail "report --table says: $(cat err)"
cp -r twins cut
cp -r cut/bf16-seed1 cut/a-first-try # of the same twin, stopped at step 7, and listed before it
grep -v '"step":8,' cut/a-first-try/metrics.jsonl > rest && mv rest cut/a-first-try/metrics.jsonl
"$nibble" report cut/a-first-try cut/*-seed* --table > again 2> err || fail "report --table beside a first try: $(cat err)"
grep ' +- ' again | cmp - gaps || fail "report --table beside a first try: $(cat again)"
rm -r cut/a-first-try
grep -v '"step":8,' cut/nvfp4-seed2/metrics.jsonl > rest && mv rest cut/nvfp4-seed2/metrics.jsonl
"$nibble" report cut --table > again 2> err || fail "report --table of a run that was cut: $(cat err)"
grep -q '^note: nvfp4-seed2: has no loss at step 8, where its twin ends: left out$' err || fail "report --table: $(cat err)"
grep -q '^nvfp4 .* one seed  [+-][0-9.]* *-$' again || fail "report --table of a run that was cut: $(cat again)"
rm -r cut/bf16-seed1 cut/bf16-seed2
expect 2 "no run among 2 has its BF16 twin" "$nibble" report cut --table
rm -r cut
"$nibble" compare run.yaml --recipes nvfp4 --set out=twins -q | grep -q 'one seed' || fail "one seed is not said"
expect 1 "twins/bf16-seed1" "$nibble" compare run.yaml --recipes nvfp4 --set out=twins/bf16-seed1/run.yaml
# One that ends before its table has its order all the same: here its fourth run is another's.
"$nibble" train run.yaml --set recipe=chon --set out=half/chon-seed1 --set steps=4 --set optimizer.lr=1e-5 -q
expect 2 "optimizer.lr" "$nibble" compare run.yaml --recipes nvfp4,fp4-direct,chon --set out=half --set steps=4 -q
[ "$("$nibble" lens half | cut -d: -f1 | tr '\n' ' ')" = "bf16-seed1 nvfp4-seed1 fp4-direct-seed1 chon-seed1 " ] ||
    fail "runs of an interrupted comparison: $("$nibble" lens half | cut -d: -f1)"
rm -r half/chon-seed1
"$nibble" compare run.yaml --recipes nvfp4,fp4-direct,chon --set out=half --set steps=4 -q > out
! grep -q '"order"' half/compare.json || fail "a finished comparison says its order twice"
expect 2 "optimizer.lr" "$nibble" compare run.yaml --recipes nvfp4 --set out=twins --set optimizer.lr=1e-5
expect 2 "recipes is missing" "$nibble" compare run.yaml

# ---- twins that begin as one trained model ----------------------------------------------------------------------------------
"$nibble" compare run.yaml --recipes nvfp4 --seeds 2 --from runs/a/checkpoints/step-00000004 --set out=late > out
grep -q 'forked from runs/a/checkpoints/step-00000004 at step 4' out || fail "compare --from: $(cat out)"
grep -q '^Every run began as runs/a/checkpoints/step-00000004' out || fail "compare --from does not say so: $(cat out)"
grep -q '"from": "runs/a/checkpoints/step-00000004"' late/compare.json || fail "compare.json does not tell the fork"
for run in late/bf16-seed1 late/nvfp4-seed1 late/nvfp4-seed2; do
    grep -q '"step":5,' $run/metrics.jsonl || fail "$run has no step 5"
    ! grep -q '"step":4,' $run/metrics.jsonl || fail "$run does not begin at step 4"
done
rm -r late/nvfp4-seed2/checkpoints/step-00000008 # as if it had been killed
grep ' +- ' out > gaps
"$nibble" compare run.yaml --recipes nvfp4 --seeds 2 --from runs/a/checkpoints/step-00000004 --set out=late -q > again
grep ' +- ' again | cmp - gaps || fail "compare --from given again: $(cat again)"

# ---- twins that share their first steps -------------------------------------------------------------------------------------
printf 'name: plain\nbase: nvfp4\nkeep: {last_blocks: 0}\n' > plain.yaml
printf 'name: reset\nbase: ./plain.yaml\noscireset: {start: 0.5, period: 4, window: 1, threshold: 0.5}\n' > reset.yaml
printf 'name: never\nbase: ./reset.yaml\noscireset: {start: 8}\n' > never.yaml
"$nibble" compare run.yaml --recipes ./plain.yaml,./reset.yaml --set out=forked --set checkpoint.every=0 > out
grep -q '^reset trains as plain for 4 of 8 steps' out || fail "compare: what is shared is not said: $(cat out)"
grep -q 'branched from forked/plain-seed1/checkpoints/step-00000004' out || fail "compare: no branch: $(cat out)"
grep -q '"branched_at": 4' forked/compare.json || fail "compare.json does not tell the branch"
"$nibble" compare run.yaml --recipes ./plain.yaml,./reset.yaml --set out=apart --straight -q > out
grep -q '^reset .*%' out || fail "compare --straight: $(cat out)"
cmp forked/reset-seed1/checkpoints/step-00000008/model.safetensors \
    apart/reset-seed1/checkpoints/step-00000008/model.safetensors || fail "a branch is not the straight run"
grep -q '"step":1,' apart/reset-seed1/metrics.jsonl || fail "compare --straight: does not begin at step 0"
expect 2 "plain and never are one run" "$nibble" compare run.yaml --set out=same --recipes ./plain.yaml,./never.yaml
