#!/bin/sh
# train.sh PYTHON [NIBBLE] [MODEL.yaml...]: the training step of nibble (nvfp4, bf16) beside PyTorch's (FP32, and NVFP4
# emulated by tensor operations), in turns: ROUNDS times STEPS steps of each on THREADS threads, the first of which is not
# counted. Medians over all counted steps. PYTHON is an interpreter with torch.
#   ROUNDS=3 STEPS=4 THREADS=1 BATCH=8 SEQ=256 bench/train.sh venv/bin/python
# Where the user may, programs run under a real-time policy (chrt), so that other work on the machine does not count.
set -e
here=$(cd "$(dirname "$0")/.." && pwd)
python=${1:?usage: train.sh PYTHON [NIBBLE] [MODEL.yaml...]}
nibble=${2:-$here/build/nibble}
if [ $# -gt 2 ]; then
    shift 2
else
    set -- "$here/models/llama-tiny.yaml" "$here/bench/llama-34m.yaml"
fi
rounds=${ROUNDS:-3} steps=${STEPS:-4} threads=${THREADS:-1} batch=${BATCH:-8} seq=${SEQ:-256}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset OPENBLAS_CORETYPE
alone=
chrt -r 3 true 2>/dev/null && alone="chrt -r 3"

"$nibble" tokenize "$here"/docs/*.md --tokenizer bytes -o "$work/data" >/dev/null
nibble_steps() { # RECIPE MODEL: milliseconds of each step, one a line
    rm -rf "$work/run"
    printf 'model: %s\nrecipe: %s\nout: %s\ndata: {train: "%s/data/train_*.bin"}\nsteps: %s\nseq: %s\nmicro_batch: %s\nthreads: %s\n' \
        "$2" "$1" "$work/run" "$work" "$steps" "$seq" "$batch" "$threads" >"$work/run.yaml"
    $alone "$nibble" train "$work/run.yaml" --set eval.every=0 --set checkpoint.every=0 >"$work/log" 2>&1 ||
        { cat "$work/log" >&2; exit 1; }
    sed -n 's/.*"ms":\([0-9.]*\).*/\1/p' "$work/run/metrics.jsonl" | tail -n +2
}
torch_steps() { # PRECISION MODEL
    $alone "$python" "$here/bench/train_pytorch.py" "$2" --precision "$1" --batch "$batch" --seq "$seq" \
        --threads "$threads" --steps "$steps" >"$work/log" || {
        echo "train.sh: $python stopped with status $?" >&2
        exit 1
    }
    sed 's/.*"ms": \[\([^]]*\)\].*/\1/; s/, /\n/g' "$work/log" | tail -n +2
}
median() {
    sort -n | awk '{v[NR] = $1} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'
}

sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1
"$python" -c 'import torch; print("PyTorch", torch.__version__, torch.backends.cpu.get_cpu_capability())'
echo "$threads threads, batch $batch x $seq tokens; median of $rounds rounds of $((steps - 1)) steps, in turns${alone:+, under $alone}"
for model; do
    rm -f "$work"/ms.*
    round=0
    while [ $round -lt "$rounds" ]; do
        nibble_steps nvfp4 "$model" >>"$work/ms.1"
        torch_steps nvfp4 "$model" >>"$work/ms.2"
        nibble_steps bf16 "$model" >>"$work/ms.3"
        torch_steps fp32 "$model" >>"$work/ms.4"
        round=$((round + 1))
    done
    ours=$(median <"$work/ms.1")
    printf '\n%-32s %10s %10s   %s\n' "$(basename "$model" .yaml)" "ms a step" tok/s "nibble nvfp4 is faster by"
    for i in 1 2 3 4; do
        case $i in
        1) name="nibble nvfp4" ;; 2) name="PyTorch nvfp4 emulated" ;; 3) name="nibble bf16" ;; 4) name="PyTorch fp32" ;;
        esac
        awk -v name="$name" -v ms="$(median <"$work/ms.$i")" -v ours="$ours" -v tokens=$((batch * seq)) \
            'BEGIN {printf "  %-30s %10.1f %10.0f   %.2fx\n", name, ms, 1000 * tokens / ms, ms / ours}'
    done
done
