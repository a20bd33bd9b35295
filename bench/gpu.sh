#!/bin/sh
# gpu.sh RUN.yaml PYTHON [NIBBLE]: the training step of one run file on a GPU under our recipes, and PyTorch's beside it on the
# same model, batch and length, one after the other on the same card: torch.compile in BF16, and NVFP4 emulated by tensor
# operations (eager; COMPILE_NVFP4=1 compiles it too, minutes). PYTHON is an interpreter with torch; RECIPES and SECONDS_EACH as
# `nibble bench train` has them. The fastest step of each counts, as there.
set -e
here=$(cd "$(dirname "$0")" && pwd)
run=${1:?usage: gpu.sh RUN.yaml PYTHON [NIBBLE]} python=${2:?usage: gpu.sh RUN.yaml PYTHON [NIBBLE]}
nibble=${3:-$here/../build/nibble}
key() { sed -n "s/^$1: *\\([^ #]*\\).*/\\1/p" "$run" | head -1; }
model=$(key model)
[ -f "$model" ] || model=$(for f in "$here/../models" "$(dirname "$nibble")/models"; do ls "$f/$model.yaml"; done 2>/dev/null | head -1)
"$nibble" bench train "$run" --recipes "${RECIPES:-bf16,nvfp4}" --seconds "${SECONDS_EACH:-1}"
torch_row() { # NAME FLAGS...
    name=$1
    shift
    "$python" "$here/train_pytorch.py" "$model" --device cuda --batch "$(key micro_batch)" --seq "$(key seq)" --steps "${STEPS:-12}" "$@" |
        "$python" -c "import json, sys; r = json.load(sys.stdin); ms = min(r['ms'][2:]); print('%-28s %12.2f %12.0f' % ('$name', ms, 1e3 * r['tokens'] / ms))"
}
torch_row "PyTorch bf16, compiled" --precision bf16 --compile
torch_row "PyTorch nvfp4 emulated" --precision nvfp4 ${COMPILE_NVFP4:+--compile}
