#!/bin/sh
# gpu.sh RUN.yaml PYTHON [NIBBLE]: the training step of one run file on a GPU under our recipes, and PyTorch's beside it on the
# same model, batch and length, one after the other on the same card: torch.compile in BF16, and NVFP4 emulated by tensor
# operations (eager; COMPILE_NVFP4=1 compiles it too, minutes). PYTHON is an interpreter with torch; RECIPES and SECONDS_EACH as
# `nibble bench train` has them. The fastest step of each counts, as there. Where the model is of the family gla, its peer is
# flash-linear-attention (train_fla.py).
set -e
here=$(cd "$(dirname "$0")" && pwd)
run=${1:?usage: gpu.sh RUN.yaml PYTHON [NIBBLE]} python=${2:?usage: gpu.sh RUN.yaml PYTHON [NIBBLE]}
nibble=${3:-$here/../build/nibble}
key() { sed -n "s/^$1: *\\([^ #]*\\).*/\\1/p" "$run" | head -1; }
model=$(key model)
[ -f "$model" ] || model=$(for f in "$here/../models" "$(dirname "$nibble")/models"; do ls "$f/$model.yaml"; done 2>/dev/null | head -1)
"$nibble" bench train "$run" --recipes "${RECIPES:-bf16,nvfp4}" --seconds "${SECONDS_EACH:-1}"
torch_row() { # NAME PROGRAM FLAGS...
    name=$1 program=$2
    shift 2
    "$python" "$here/$program" "$model" --batch "$(key micro_batch)" --seq "$(key seq)" --steps "${STEPS:-12}" "$@" |
        "$python" -c "import json, sys; r = json.load(sys.stdin); ms = min(r['ms'][2:]); print('%-28s %12.2f %12.0f' % ('$name', ms, 1e3 * r['tokens'] / ms))"
}
if grep -q '^family: *gla' "$model"; then
    torch_row "fla bf16" train_fla.py
    torch_row "fla bf16, no logits" train_fla.py --fused-loss
    exit
fi
torch_row "PyTorch bf16, compiled" train_pytorch.py --device cuda --precision bf16 --compile
torch_row "PyTorch nvfp4 emulated" train_pytorch.py --device cuda --precision nvfp4 ${COMPILE_NVFP4:+--compile}
