#!/bin/sh
# test_report_page.sh NIBBLE SOURCE_DIR: the report of real runs in a real browser, on a wide and on a narrow screen:
# the console is silent, the table holds the numbers of the runs, keyboard and menus work (tests/report_page.js), the
# table of three recipes beside BF16 needs no scrolling, what is printed has its pictures.
# ./test.sh installs Chromium; without it this test fails. `scripts/install-packages chromium` does it alone.
# Ubuntu has it as a snap alone, which does not see the files of a test: there Google's browser is taken, or the test is skipped.
set -eu
nibble=$1 source=$2
if grep -qsx ID=ubuntu /etc/os-release; then
    browser=$(command -v google-chrome) || { echo "Ubuntu has no package of Chromium, and there is no google-chrome"; exit 77; }
else
    browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
        echo "FAILED: no Chromium to open the report in; hint: scripts/install-packages chromium" >&2
        exit 1
    }
fi
# shellcheck source=tests/script.sh
. "$source/tests/script.sh"
cd "$work"

cat > small.yaml << 'END'
{name: small, family: llama, vocab: 257, hidden: 64, layers: 2, heads: 2, kv_heads: 1, intermediate: 128, max_seq: 64}
END
cat > run.yaml << 'END'
model: ./small.yaml
recipe: bf16
out: runs
data: {train: "data/train_*.bin", val: "data/val_*.bin", tokenizer: data}
steps: 40
seq: 16
micro_batch: 1
threads: 1
optimizer: {lr: 3e-2}
eval: {every: 20, sequences: 4}
lens: {every: 5, window: 4, tiles: "layers.1.*down_proj/*"}
END
"$nibble" tokenize "$source/docs/training.md" --tokenizer bytes --val 0.2 --split blank -o data > /dev/null
for recipe in bf16 nvfp4; do
    "$nibble" train run.yaml --set recipe=$recipe --set out=runs/$recipe-seed1 -q
done
for recipe in fp4-dge-occ chon; do # many mechanisms: what recipes say is wide
    "$nibble" train run.yaml --set recipe=$recipe --set steps=2 --set eval.every=2 --set out=runs/$recipe-seed1 -q
done
"$nibble" probe runs/nvfp4-seed1/checkpoints/step-00000040 --sequences 4 --threads 1 -o runs/nvfp4-seed1/probe.json > /dev/null
"$nibble" report runs -o page.html > /dev/null
sed "/dataset.readyMs/r $source/tests/report_page.js" page.html > checked.html

look() { # width, page
    "$browser" --headless=new --no-sandbox --disable-gpu --hide-scrollbars --enable-logging=stderr \
        --user-data-dir="$work/profile" --window-size=1280,900 --virtual-time-budget=6000 --dump-dom \
        "file://$work/$2" > dom.html 2> log
    grep -q "checks at $1: all hold" log || fail "at width $1: $(grep -o 'checks at .*' log || echo no checks)"
    # Debian 13's Dygraphs counts there what lies outside of a view that was drawn closer.
    ! grep CONSOLE log | grep -vE 'checks at|[0-9]+ points out of [XY] bounds:' || fail "at width $1 the page wrote to the console"
}
look 1280 checked.html
grep -q 'data-drawn-ms' dom.html || fail 'the page was not drawn'
for recipe in bf16 nvfp4; do # the table's numbers are those of metrics.jsonl
    loss=$(sed -n 's/.*"val_loss":\([0-9.e+-]*\).*/\1/p' runs/$recipe-seed1/metrics.jsonl | tail -n 1)
    train=$(sed -n 's/.*"loss":\([0-9.e+-]*\),"norm".*/\1/p' runs/$recipe-seed1/metrics.jsonl | tail -n 20 |
        awk '{sum += $1} END {printf "%.4f", sum / NR}')
    row=$(printf '>%s</td><td class="number">40</td><td class="number">%s</td><td class="number">%.4f</td>' \
        $recipe "$train" "$loss")
    grep -qF "$row" dom.html || fail "the table does not show: $row"
done
for text in 'What stands out' 'Sensitivity' 'Quantization error' 'Census of nvfp4-seed1' 'Command that repeats' \
    'could not measure'; do
    grep -qF "$text" dom.html || fail "the page does not show: $text"
done
# No window is as narrow as a phone; a frame is.
echo '<!doctype html><iframe src="checked.html" style="width: 390px; height: 844px; border: 0"></iframe>' > narrow.html
look 390 narrow.html
# On paper: every picture is there though no section was ever near the screen, and though nobody waited.
sed '/^const report = JSON/i window.IntersectionObserver = class { observe() {} unobserve() {} disconnect() {} };' page.html > unseen.html
"$browser" --headless=new --no-sandbox --disable-gpu --user-data-dir="$work/profile" --print-to-pdf=page.pdf \
    "file://$work/unseen.html" 2> /dev/null || fail "the page does not print"
pictures=$(grep -ac '/Subtype /Image' page.pdf) || true
[ "$pictures" -ge 40 ] || fail "the printed page has $pictures pictures (and their masks), where all sections have 50 or so"

# A parent's runs come in the order of its comparison, arguments in their own.
"$nibble" compare run.yaml --recipes nvfp4,fp8 --set out=asked --set steps=2 --set lens.every=0 -q > /dev/null
"$nibble" report asked -o asked.html > /dev/null
grep -o 'asked/[a-z0-9]*-seed1' asked.html | awk '!seen[$0]++' | tr '\n' ' ' > order
[ "$(cat order)" = "asked/bf16-seed1 asked/nvfp4-seed1 asked/fp8-seed1 " ] || fail "order of the runs: $(cat order)"
echo "the pages are drawn, the table holds the numbers, keyboard and menus work, the console is silent"
