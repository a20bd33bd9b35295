#!/usr/bin/env python3
"""Compares nibble's gated linear attention with the package flash-linear-attention (fla), arXiv:2312.06635.

    scripts/check_fla.py check [BUILD_DIR]    build/test_files_hf writes GLA folders with nibble's logits and gradients;
                                              fla's GLAForCausalLM loads them and computes its own. Instead of BUILD_DIR
                                              a folder that `test_files_hf FOLDER` wrote on another machine
    scripts/check_fla.py load FOLDER          fla loads a folder of `nibble export` and scores a few tokens
    scripts/check_fla.py golden [FILE]        writes tests/golden/fla_gla.safetensors: outputs and gradients of fla's plain
                                              reference and of its kernels, which test_ops_gla reads back

Needs: pip install torch flash-linear-attention safetensors numpy. Without a GPU fla's Triton kernels are interpreted,
which takes minutes.
"""
import builtins
import os
import subprocess
import sys
import tempfile

import torch

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"
    # There is no driver to time a kernel's variants with: take the first. Set before fla decorates its kernels.
    from triton.runtime.autotuner import Autotuner

    Autotuner._bench = lambda self, *args, config, **kwargs: [1.0, 1.0, 1.0]

import fla
import triton
import transformers
from fla.models import GLAForCausalLM
from fla.ops.gla import chunk_gla, fused_recurrent_gla
from fla.ops.gla.naive import naive_recurrent_gla
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
DEVICE = "cuda" if ON_GPU else "cpu"


class Counter(int):
    """A loop counter: interpreted kernels get Python's, which lacks the method that fla calls on Triton's."""

    def to(self, dtype):
        return self


def counting(*bounds):
    return (Counter(i) for i in builtins.range(*(int(b.item()) if hasattr(b, "item") else int(b) for b in bounds)))


if not ON_GPU:
    for name, module in list(sys.modules.items()):
        if name.startswith("fla.ops"):
            module.range = counting


def relative(got, want):
    got, want = got.double().cpu(), want.double().cpu()
    return ((got - want).norm() / want.norm()).item()


def report(good, what, error, limit):
    print(f"{what:<52} {error:>10.3g}  {limit:.3g}{'' if error <= limit else '  FAIL'}", flush=True)
    return good and error <= limit


def logits_of(path, dtype, tokens, **changed):
    model = GLAForCausalLM.from_pretrained(path, dtype=dtype, **changed).to(DEVICE).eval()
    return model, model(input_ids=tokens.long().to(DEVICE)).logits.flatten(0, 1)


def check_folder(good, path):
    name = os.path.basename(path)
    ours = load_file(os.path.join(path, "nibble-logits.safetensors"))
    # fla sums in FP32: about 2^-24 a rounding, some thousands of which meet in two blocks; BF16 has a roundoff of 2^-8,
    # and about a dozen roundings follow each other.
    # The interpreter's products in BF16 are wrong (those in FP32 and FP16 are right), so without a GPU the kernel that
    # makes none stands for the chunked one.
    changed = {} if ON_GPU else {"attn_mode": "fused_recurrent"}
    with torch.no_grad():
        _, half = logits_of(path, torch.bfloat16, ours["tokens"], **changed)
    good = report(good, f"{name}: logits, nibble in BF16, fla in BF16", relative(half, ours["logits.bf16"]), 12 * 2.0 ** -8)
    model, logits = logits_of(path, torch.float32, ours["tokens"])
    good = report(good, f"{name}: logits, nibble in double, fla in FP32", relative(logits, ours["logits.f64"]), 1e-5)
    theirs = load_file(os.path.join(path, "nibble-gradients.safetensors"))
    loss = torch.nn.functional.cross_entropy(logits[:-1], ours["tokens"].long().flatten()[1:].to(DEVICE))
    loss.backward()
    good = report(good, f"{name}: loss", relative(loss.detach().reshape(1), theirs["loss"]), 1e-6)
    worst, seen = 0.0, 0
    for parameter, value in model.named_parameters():
        worst, seen = max(worst, relative(value.grad, theirs[parameter])), seen + 1
    assert seen == len(theirs) - 1, f"fla has {seen} parameters, nibble {len(theirs) - 1}"
    return report(good, f"{name}: worst of {seen} gradients", worst, 1e-5)


def check_folders(folder):
    names = sorted(name for name in os.listdir(folder) if name.startswith("gla-"))
    good = bool(names)
    print(f"{'':<52} {'|a-b|/|b|':>10}  limit")
    for name in names:
        good = check_folder(good, os.path.join(folder, name))
    say_versions(good)
    return 0 if good else 1


def check(build):
    program = os.path.join(build, "test_files_hf")
    if not os.path.exists(program):
        return check_folders(build)
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "texts"), "wb") as out:
            out.write(b"a")
        subprocess.run([program, folder], check=True, stdout=subprocess.DEVNULL)
        return check_folders(folder)


transformers.utils.logging.disable_progress_bar()


def say_versions(good):
    where = torch.cuda.get_device_name() if ON_GPU else "kernels interpreted on the CPU"
    print(f"torch {torch.__version__}, triton {triton.__version__}, fla {fla.__version__}, {where}: "
          f"{'all good' if good else 'FAILED'}")


def load(path):
    tokens = torch.arange(1, 97)[None] % 32
    with torch.no_grad():
        model, logits = logits_of(path, torch.float32, tokens)
    loss = torch.nn.functional.cross_entropy(logits[:-1], tokens[0, 1:].to(DEVICE)).item()
    print(f"{path}: {sum(p.numel() for p in model.parameters())} parameters, loss {loss:.6f} on counting tokens")
    return 0


def golden(path):
    """One document of 80 tokens: more than a chunk of 64. Gates from nearly open to shut within a step."""
    torch.manual_seed(7)
    shape, value_shape = (1, 80, 2, 16), (1, 80, 2, 24)
    q, k = torch.randn(shape), torch.randn(shape)
    v, d_o = torch.randn(value_shape), torch.randn(value_shape)
    gate = torch.nn.functional.logsigmoid(4 * torch.randn(shape)) / 16
    gate[:, 30, 0], gate[:, 70, 1, ::3] = -7.5, -40.0
    out = {"q": q, "k": k, "v": v, "gate": gate, "d_o": d_o}
    for name, function in [("naive", naive_recurrent_gla), ("recurrent", fused_recurrent_gla), ("chunk", chunk_gla)]:
        inputs = [t.clone().to(DEVICE).requires_grad_() for t in (q, k, v, gate)]
        o, _ = function(*inputs)
        o.backward(d_o.to(DEVICE))
        for key, value in zip(("o", "dq", "dk", "dv", "dgate"), [o] + [t.grad for t in inputs]):
            value = value.detach().cpu()
            if name == "naive":
                out[key] = value
            print(f"{name:<10} {key:<6} {relative(value, out[key]):.3g} from the plain reference", flush=True)
    save_file({key: value.contiguous() for key, value in out.items()}, path)
    print(f"{path}: {os.path.getsize(path)} bytes")
    say_versions(True)
    return 0


if __name__ == "__main__":
    what, rest = sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:]
    if what == "check":
        sys.exit(check(rest[0] if rest else os.path.join(HERE, "..", "build")))
    if what == "load" and rest:
        sys.exit(load(rest[0]))
    if what == "golden":
        sys.exit(golden(rest[0] if rest else os.path.join(HERE, "..", "tests", "golden", "fla_gla.safetensors")))
    sys.exit(__doc__)
