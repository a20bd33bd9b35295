#!/bin/sh
# demo.sh: watch a language model train in 4-bit floating point, on this machine, in about ten minutes.
#
# Usage: ./demo.sh [--quick] [TEXT.txt]
#
#   TEXT.txt   what to learn from (default: a dictionary of English, 29 MB of prose, from Debian's archive)
#   --quick    a few steps only, to see that everything works
#
# It installs the missing Debian packages if it may (and says what to type if it may not), builds nibble, trains a
# tokenizer, trains one small LLaMA-type model twice on the same data with the same seeds, in BF16 and with NVIDIA's
# NVFP4 recipe, compares the two and writes a report. Everything lands in demo-run/. Run it again and it goes on where
# it stopped. Where there is an NVIDIA GPU with CUDA's compiler, the model is LLaMA 60M.
set -eu
from=$PWD
cd "$(dirname "$0")"
here=$PWD

quick='' text=''
for argument; do
    case $argument in
    --quick) quick=yes ;;
    -h | --help)
        sed -n '2,14s/^# \{0,1\}//p' "$here/demo.sh"
        exit 0
        ;;
    -*)
        echo "demo.sh: unknown option $argument; try ./demo.sh --help" >&2
        exit 2
        ;;
    /*) text=$argument ;;
    *) text=$from/$argument ;;
    esac
done

started=$(date +%s)
nibble=build/nibble

heading() {
    if [ -t 1 ]; then
        printf '\n\033[1m%s\033[0m\n' "$1"
    else
        printf '\n%s\n' "$1"
    fi
}

die() {
    echo "demo.sh: $1" >&2
    exit 1
}

# As a shell reads it back.
quote() {
    case $1 in
    *[!a-zA-Z0-9_./=,:+-]*) printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")" ;;
    *) printf '%s' "$1" ;;
    esac
}

# How much text there is, and under it the first words, at most so many bytes: as it is read, out of gzip or JSON lines
# too. What is no text is refused here, before anything is made.
peek() {
    $nibble tokenize "$text" --peek "$1" || exit 1
}

# The Collaborative International Dictionary of English: unpacked from its Debian package, never installed.
fetch_dictionary() {
    work=demo-run/dictionary.tmp
    rm -rf "$work"
    mkdir -p "$work/files"
    (cd "$work" && apt-get download -q -o APT::Sandbox::User=root dict-gcide >download.log 2>&1) || {
        [ "$(id -u)" = 0 ] && apt-get update -q >"$work/update.log" 2>&1 &&
            (cd "$work" && apt-get download -q -o APT::Sandbox::User=root dict-gcide >download.log 2>&1)
    } || {
        tail -n 3 "$work/download.log" >&2
        die "cannot download the package dict-gcide; is there a network? Or give a text of your own: ./demo.sh my.txt"
    }
    dpkg-deb -x "$work"/dict-gcide_*.deb "$work/files"
    zcat <"$work/files/usr/share/dictd/gcide.dict.dz" | LC_ALL=C tr -cd '\12\40-\176' |
        LC_ALL=C awk -f scripts/dictionary-prose.awk >"$work/text"
    [ -s "$work/text" ] || die "the package dict-gcide holds no text where it was expected"
    mv "$work/text" "$1"
    rm -rf "$work"
}

# A GPU with the toolkit: its driver answers, and nvcc is on the path or where it is installed as a rule.
gpu=''
[ -x /usr/local/cuda/bin/nvcc ] && PATH=$PATH:/usr/local/cuda/bin
if command -v nvcc >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    gpu=gpu
fi

heading "1. Set-up"
if [ -n "$gpu" ]; then
    CMAKE_FLAGS="-DNIBBLE_CUDA=ON ${CMAKE_FLAGS:-}" scripts/setup nibble-cli nibble-cuda
else
    scripts/setup nibble-cli
fi
$nibble info | sed '/^products/,$d'

heading "2. Text"
if [ -z "$text" ]; then
    name=dictionary
    mkdir -p demo-run
    text=demo-run/dictionary.txt
    [ -f "$text" ] || fetch_dictionary "$text"
else
    if [ ! -f "$text" ] || [ ! -r "$text" ]; then
        die "$text: no such file, or it may not be read"
    fi
    name=$(basename "$text" .txt)
fi
begins=$(peek 60)
bytes=${begins%% *}
echo "$text: $bytes bytes of text, beginning: $(echo "$begins" | sed 1d) ..."
# A piece to validate on and a few sequences to train on have to come out of it.
if [ "$bytes" -lt 300 ]; then
    die "$text: $bytes bytes are too few to train on and to validate on; expected at least 300, and a million to learn much"
fi

folder=demo-run/$name
sum=$(cksum <"$text")
if [ -f "$folder/tokens/meta.json" ] && [ "$sum" != "$(cat "$folder/text.cksum" 2>/dev/null)" ]; then
    die "$text is not the text that $folder was made from; remove that folder to begin anew"
fi

heading "3. Tokens"
if [ ! -f "$folder/tokens/meta.json" ]; then
    # A vocabulary is learnt from a text that is long beside it; in a shorter one a token is a byte.
    vocab=''
    [ "$bytes" -lt 300000 ] || vocab=1024
    [ "$bytes" -lt 2000000 ] || vocab=4096
    share=0.01
    [ "$bytes" -ge 1000000 ] || share=0.1
    rm -f "$folder/text.cksum"
    if [ -z "$vocab" ] ||
        ! $nibble tokenize "$text" --train-tokenizer $vocab --split blank --val $share -o "$folder/tokens"; then
        [ -z "$vocab" ] || echo "This text does not give so many tokens: here a token is a byte."
        $nibble tokenize "$text" --tokenizer bytes --split blank --val $share -o "$folder/tokens"
    fi
    echo "$sum" >"$folder/text.cksum"
fi

heading "4. The same model in BF16 and in NVFP4"
run=$(scripts/demo-run $nibble $gpu)
# Sequences that fit the smaller side, and a vocabulary (in whole blocks of 128) that fits the tokenizer.
of_meta() { # KEY: its numbers, in the order of the file
    sed -n "s/^ *\"$1\": \([0-9]*\),*\$/\1/p" "$folder/tokens/meta.json"
}
model_seq=256 model_vocab=4096 runs=$folder/runs
if [ "$run" != examples/demo.yaml ]; then
    model_seq=512 model_vocab=32000 runs=$folder/runs-gpu
fi
seq=$model_seq
for tokens in $(of_meta tokens); do
    while [ $seq -gt 8 ] && [ "$tokens" -le $((seq + seq / 4)) ]; do
        seq=$((seq / 2))
    done
done
vocab=$((($(of_meta vocab) + 127) / 128 * 128))
[ -z "$quick" ] || runs=$runs-quick
set -- --set "out=$runs" --set "data.train=$folder/tokens/train_*.bin" --set "data.val=$folder/tokens/val_*.bin" \
    --set "data.tokenizer=$folder/tokens"
[ $seq = $model_seq ] || set -- "$@" --set seq=$seq
[ $vocab = $model_vocab ] || set -- "$@" --set model.vocab=$vocab
if [ -n "$quick" ]; then
    set -- "$@" --set steps=20 --set eval.every=10 --set eval.sequences=32 --set lens.every=5 --set lens.window=4
fi
$nibble compare "$run" --recipes bf16,nvfp4 "$@"

heading "5. Report"
$nibble report "$runs" -o "$folder/report.html"

heading "6. What the NVFP4 model writes"
prompt="Horse, n. "
if [ "$name" != dictionary ]; then
    prompt=$(peek 24 | sed 1d)
fi
$nibble generate "$(find "$runs/nvfp4-seed1/checkpoints" -maxdepth 1 -name 'step-*' ! -name '*.tmp*' | sort | tail -n 1)" \
    --prompt "$prompt" --tokens 60

took=$(($(date +%s) - started))
heading "Done in $((took / 60)) min $((took % 60)) s"
echo "The report:             $here/$folder/report.html"
echo "All recipes:            $nibble recipe list"
printf 'Another one, same twin: cd %s && %s compare %s --recipes fp4-direct' "$(quote "$here")" "$nibble" "$run"
for argument; do
    printf ' %s' "$(quote "$argument")"
done
echo
