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
echo "$text: $(wc -c <"$text") bytes, beginning: $(head -c 60 "$text" | tr '\n' ' ') ..."

folder=demo-run/$name
mkdir -p "$folder"
sum=$(cksum <"$text")
if [ -f "$folder/text.cksum" ] && [ "$sum" != "$(cat "$folder/text.cksum")" ]; then
    die "$text is not the text that $folder was made from; remove that folder to begin anew"
fi
echo "$sum" >"$folder/text.cksum"

heading "3. Tokens"
if [ ! -f "$folder/tokens/meta.json" ]; then
    # 4096 tokens cannot be learnt from a short text; there a token is a byte.
    if [ "$(wc -c <"$text")" -ge 2000000 ]; then
        set -- --train-tokenizer 4096
    else
        set -- --tokenizer bytes
    fi
    $nibble tokenize "$text" "$@" --split blank -o "$folder/tokens"
fi

heading "4. The same model in BF16 and in NVFP4"
run=$(scripts/demo-run $nibble $gpu)
runs=$folder/runs
[ "$run" = examples/demo.yaml ] || runs=$folder/runs-gpu
set -- --set "out=$runs" --set "data.train=$folder/tokens/train_*.bin" --set "data.val=$folder/tokens/val_*.bin" \
    --set "data.tokenizer=$folder/tokens"
if [ -n "$quick" ]; then
    runs=$runs-quick
    set -- "$@" --set "out=$runs" --set steps=20 --set eval.every=10 --set eval.sequences=32 \
        --set lens.every=5 --set lens.window=4
fi
$nibble compare "$run" --recipes bf16,nvfp4 "$@"

heading "5. Report"
$nibble report "$runs" -o "$folder/report.html"

heading "6. What the NVFP4 model writes"
newest=$(find "$runs/nvfp4-seed1/checkpoints" -maxdepth 1 -name 'step-*' ! -name '*.tmp*' | sort | tail -n 1)
$nibble generate "$newest" --prompt "Horse, n. " --tokens 60

took=$(($(date +%s) - started))
heading "Done in $((took / 60)) min $((took % 60)) s"
echo "The report:             $here/$folder/report.html"
echo "All recipes:            $nibble recipe list"
echo "Another one, same twin: $nibble compare $run --recipes fp4-direct$([ "$name" = dictionary ] || echo " --set ...")"
