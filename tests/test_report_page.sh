#!/bin/sh
# The report in a real browser: no message on the console, and the table shows the run's numbers.
# Skipped (77) where there is no Chromium.
set -eu
nibble=$1
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || exit 77
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

make_run() { # name, recipe, validation loss
    mkdir -p "$folder/runs/$1"
    printf 'model: toy\nrecipe: %s\nseeds: {init: 1, data: 2, rounding: 3}\n' "$2" >"$folder/runs/$1/run.yaml"
    awk -v val="$3" 'BEGIN {
        for (s = 1; s <= 400; s++)
            printf "{\"step\":%d,\"loss\":%f,\"norm\":1,\"lr\":0.001,\"ms\":2,\"tok_s\":1234}\n", s, val + 3 / s
        printf "{\"step\":400,\"val_loss\":%f}\n", val
    }' >"$folder/runs/$1/metrics.jsonl"
}
make_run bf16-seed1 bf16 3
make_run chon-seed1 nvfp4 3.015
"$nibble" report "$folder/runs" -o "$folder/page.html"

"$browser" --headless=new --no-sandbox --disable-gpu --enable-logging=stderr --user-data-dir="$folder/profile" \
    --virtual-time-budget=3000 --dump-dom "file://$folder/page.html" >"$folder/dom.html" 2>"$folder/log"
if grep -E 'CONSOLE' "$folder/log"; then
    echo "the page wrote to the console" >&2
    exit 1
fi
for text in 'data-drawn-ms' 'After 400 steps nvfp4 stands 0.50 % above BF16' \
    '>nvfp4</td><td class="number">400</td><td class="number">3.0227</td><td class="number">3.0150</td>' \
    '>+0.50 %</td><td class="number">1,234</td>' '<canvas'; do
    grep -qF "$text" "$folder/dom.html" || {
        echo "the page does not show: $text" >&2
        exit 1
    }
done
echo "the page is drawn, its table holds the numbers, the console is silent"
