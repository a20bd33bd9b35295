#!/bin/sh
# books.sh [CLONE]: data/books, the tokens that the run files of this folder read on a GPU: English books in the public domain, 205 MB to train on,
# and a tokenizer of 32,000 pieces trained on them. CLONE is a clone of github.com/rcdm-uga/Gutenberg_Text; without it one is made
# (0.4 GB). Give it again to go on where it stopped.
set -eu
cd "$(dirname "$0")/../.."
nibble=${NIBBLE:-build/nibble}
clone=${1:-data/Gutenberg_Text}
mkdir -p data
[ -d "$clone" ] || git clone --quiet --depth 1 https://github.com/rcdm-uga/Gutenberg_Text "$clone"
[ -f data/text/train.txt ] || python3 examples/papers/books.py "$clone" data/text
[ -d data/books/train ] || "$nibble" tokenize data/text/train.txt --train-tokenizer 32000 --val 0.0001 -o data/books/train
[ -d data/books/val ] || "$nibble" tokenize data/text/val.txt --tokenizer data/books/train --val 0.9999 -o data/books/val
cp data/books/train/tokenizer* data/books/train/meta.json data/books/
rm -f data/books/val/train_*.bin # the rest of a share of 0.9999: no validation text is trained on
