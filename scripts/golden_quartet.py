#!/usr/bin/env python3
"""Makes tests/golden/quartet.safetensors: inputs, and what the public code of Quartet (arXiv:2505.14669) makes of them.

    TRITON_INTERPRET=1 python3 scripts/golden_quartet.py QUARTET/src OUT.safetensors

Used: IST-DASLab/Quartet 00ccd38 (2026-03-18); needs PyTorch and Triton, no GPU: its kernel runs in Triton's interpreter,
its autograd function as it is. What it imports beside them is put in its place here: the Hadamard matrix, by definition.
Tensors of a case NAME:
    NAME/x                  the input, F32 [rows, cols]
    NAME/quest, NAME/mask   the forward quantizer: values in the rotated order F32, what was not clipped U8
    NAME/g, NAME/dx         a gradient of those values and what becomes of it
    NAME/three-quarters     the backward quantizer to nearest; without its factor of 1.009276
    NAME/drawn              the same, rounded stochastically
All in FP32: Triton's interpreter multiplies no BF16, which is what theirs has under autocast.
"""
import importlib
import os
import random
import sys
import types

import torch

from golden_transformer_engine import write_safetensors


def hadamard(x, scale):
    n = x.shape[-1]
    signs = torch.tensor([[(-1.0) ** bin(i & j).count("1") for j in range(n)] for i in range(n)])
    return (x @ signs) * scale


def load(folder):
    for name in ("models", "models.quantization", "models.quantization.quantizers"):
        package = types.ModuleType(name)
        package.__path__ = [folder + "/" + name.replace(".", "/")]
        sys.modules[name] = package
    for name in ("fast_hadamard_transform", "scipy", "scipy.stats", "scipy.integrate"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["fast_hadamard_transform"].hadamard_transform = hadamard
    sys.modules["scipy"].integrate = sys.modules["scipy.integrate"]
    sys.modules["scipy.stats"].norm = None
    kernels = importlib.import_module("models.quantization.quantizers.mxfp4_triton")

    class Untuned:
        """Their kernel with one block size: nothing is timed."""

        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            return lambda **arguments: self.kernel[grid({"BLOCK_SIZE": 1024})](BLOCK_SIZE=1024, **arguments)

    kernels.mxfp4_forward_kernel = Untuned(kernels.mxfp4_forward_kernel.fn)
    return kernels, importlib.import_module("models.quantization.quantizers.mxfp4")


def inputs():
    draw = torch.Generator().manual_seed(20250520)

    def normal(rows, cols):
        return torch.randn(rows, cols, generator=draw)

    sizes = torch.exp2(2 * torch.arange(16).float() - 16)[:, None]
    return {"normal": normal(16, 64), "sizes": normal(16, 64) * sizes, "heavy": normal(16, 64) * torch.exp(normal(16, 64)),
            "shifted": normal(16, 64) + 3, "integers": torch.randint(-40, 41, (16, 64), generator=draw).float()}


def main():
    folder, out = sys.argv[1:]
    if os.environ.get("TRITON_INTERPRET") != "1":
        sys.exit("expected TRITON_INTERPRET=1: there is no GPU to compile for")
    kernels, theirs = load(folder)
    matrix = hadamard(torch.eye(32), 32**-0.5)
    draw = torch.Generator().manual_seed(4)
    random.seed(5)
    tensors = {}
    for name, x in inputs().items():
        x = x.bfloat16().float()
        tensors[name + "/x"] = x
        leaf = x.clone().requires_grad_()
        values = theirs.QuestMXFP4QuantizerFn.apply(leaf, matrix)
        g = torch.randn(x.shape, generator=draw).bfloat16().float()
        values.backward(g)
        _, mask = kernels.mxfp4_forward_kernel_wrapper(x, matrix, return_clip_mask=True, quest=True,
                                                       gaussian_scale=2.92247856 / 6.0)
        nearest, _ = kernels.mxfp4_forward_kernel_wrapper(x, matrix, quest=False)
        drawn, _ = kernels.mxfp4_forward_kernel_wrapper(x, matrix, quest=False, stochastic_round=True)
        for what, numbers in {"quest": values.detach(), "g": g, "dx": leaf.grad, "three-quarters": nearest, "drawn": drawn}.items():
            tensors[f"{name}/{what}"] = numbers.contiguous()
        tensors[name + "/mask"] = mask.to(torch.uint8)
    write_safetensors(out, tensors, {"torch": torch.__version__, "made_by": "scripts/golden_quartet.py"})


if __name__ == "__main__":
    main()
