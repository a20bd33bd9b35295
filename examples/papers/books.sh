#!/bin/sh
# books.sh [CLONE]: data/books, the tokens that the run files of this folder read on a GPU: English books in the public domain, 205 MB to train on,
# and a tokenizer of 32,000 pieces trained on them. CLONE is a clone of github.com/rcdm-uga/Gutenberg_Text; without it one is made
# (0.4 GB). Give it again to go on where it stopped. PARTS=5 adds four parts of the same size, for 250M tokens: then every run file reads all of
# them, and data.train="data/books/train/train_*.bin" the first alone.
set -eu
cd "$(dirname "$0")/../.."
nibble=${NIBBLE:-build/nibble}
clone=${1:-data/Gutenberg_Text}
parts=${PARTS:-1}
mkdir -p data
[ -d "$clone" ] || git clone --quiet --depth 1 https://github.com/rcdm-uga/Gutenberg_Text "$clone"
last=data/text/train.txt
[ "$parts" = 1 ] || last=data/text/train-$parts.txt
[ -f "$last" ] || python3 examples/papers/books.py "$clone" data/text "$parts"
[ -d data/books/train ] || "$nibble" tokenize data/text/train.txt --train-tokenizer 32000 --val 0.0001 -o data/books/train
[ -d data/books/val ] || "$nibble" tokenize data/text/val.txt --tokenizer data/books/train --val 0.9999 -o data/books/val
for part in $(seq 2 "$parts"); do
    [ -d "data/books/train-$part" ] ||
        "$nibble" tokenize "data/text/train-$part.txt" --tokenizer data/books/train --val 0 -o "data/books/train-$part"
done
cp data/books/train/tokenizer* data/books/train/meta.json data/books/
rm -f data/books/val/train_*.bin # the rest of a share of 0.9999: no validation text is trained on
