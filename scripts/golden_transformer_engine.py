#!/usr/bin/env python3
"""Makes tests/golden/transformer_engine.safetensors: inputs, and what TransformerEngine's Python reference makes of them.

    python3 scripts/golden_transformer_engine.py PATH/transformer_engine/pytorch/custom_recipes OUT.safetensors

The folder is that of a TransformerEngine checkout (used: commit d0067d0da6cb, 2026-08-22); needs PyTorch, no GPU. Only
reference_nvfp4.py and reference_utils.py are loaded, with stand-ins for the classes that they derive from.
Tensors of a case NAME:
    NAME/x                  the input, F32 or BF16 [rows, cols]
    NAME/1x16/codes ...     codes U8 [rows, cols/2], scales U8 [rows, cols/16] (E4M3 bytes), amax F32 [1]
    NAME/16x16/...          the same with 16x16 tiles
    NAME/1x16t/...          the transposed input with 1x16 blocks
    NAME/rht/...            the transposed input, rotated by the signed 16-point Hadamard (BF16 inputs)
"""
import importlib.util
import json
import struct
import sys
import types

import torch


def load_reference(folder):
    """reference_nvfp4.py as a module, in a package that has only what the file asks for."""

    class Quantizer:
        def __init__(self, *, rowwise=True, columnwise=True):
            self.rowwise_usage, self.columnwise_usage = rowwise, columnwise

    def module(name, **contents):
        made = types.ModuleType(name)
        made.__dict__.update(contents)
        made.__path__ = []
        sys.modules[name] = made
        return made

    def from_file(name, file):
        spec = importlib.util.spec_from_file_location(name, file)
        made = importlib.util.module_from_spec(spec)
        sys.modules[name] = made
        spec.loader.exec_module(made)
        return made

    recipes = "transformer_engine.pytorch.custom_recipes"
    module("transformer_engine")
    module("transformer_engine.pytorch")
    module("transformer_engine.pytorch.quantized_tensor", QuantizedTensorStorage=object, Quantizer=Quantizer)
    package = module(recipes)
    package.gemm = module(recipes + ".gemm", GEMMType=types.SimpleNamespace(FPROP=0, DGRAD=1, WGRAD=2), MMParams=object)
    package.reference_utils = from_file(recipes + ".reference_utils", folder + "/reference_utils.py")
    return from_file(recipes + ".reference_nvfp4", folder + "/reference_nvfp4.py"), package.reference_utils


def inputs():
    """Name -> matrix. What the tests of TransformerEngine try: random, extremes, the edges between codes."""
    random = torch.Generator().manual_seed(20250929)

    def normal(rows, cols):
        return torch.randn(rows, cols, generator=random)

    edges = torch.linspace(-12, 12, 16 * 80).reshape(16, 80)
    jitter = torch.tensor([-1e-3, 0, 1e-3]).repeat(16 * 80 // 3 + 1)[: 16 * 80].reshape(16, 80)
    heavy = normal(32, 64) * torch.exp(3 * normal(32, 64))
    mixed = normal(16, 48)
    mixed[:, 16:32] = 0
    mixed[3, 5] = torch.finfo(torch.bfloat16).max
    zeros = torch.zeros(16, 32)
    zeros[1, 3] = -0.0
    small = normal(16, 32) * 1e-37
    large = normal(16, 32).clamp(-1, 1) * 3e38
    cases = {"normal": normal(48, 96), "edges": edges, "jittered": edges + jitter, "heavy": heavy, "mixed": mixed,
             "zeros": zeros, "small": small, "large": large}
    both = {name + ".f32": x.float() for name, x in cases.items()}
    both.update({name + ".bf16": x.bfloat16() for name, x in cases.items()})
    return both


def quantized(reference, utils, x, tile, rotate):
    """(rows, transposed): codes, scales and amax of each."""
    q = reference.NVFP4QuantizerRef(dtype=utils.Fp4Formats.E2M1, quant_tile_shape=tile, with_rht=rotate)
    codes, scales, codes_t, scales_t, amax, amax_t = q._quantize(x)

    def three(c, s, a):
        return {"codes": c, "scales": s.contiguous().view(torch.uint8), "amax": a}

    return three(codes, scales, amax), three(codes_t, scales_t, amax_t)


def write_safetensors(path, tensors, metadata):
    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.uint8: "U8"}
    header, data = {"__metadata__": metadata}, b""
    for name, t in tensors.items():
        raw = bytes(t.contiguous().view(torch.uint8).flatten().tolist())
        header[name] = {"dtype": names[t.dtype], "shape": list(t.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def main():
    folder, out = sys.argv[1:]
    torch.backends.mkldnn.enabled = False  # its BF16 product (vdpbf16ps) takes subnormal inputs for zero
    reference, utils = load_reference(folder)
    tensors = {}
    for name, x in inputs().items():
        rows, transposed = quantized(reference, utils, x, (1, 16), False)
        tiles, _ = quantized(reference, utils, x, (16, 16), False)
        kinds = {"1x16": rows, "1x16t": transposed, "16x16": tiles}
        if x.dtype == torch.bfloat16 and not name.startswith("large"):  # whose rotation overflows
            kinds["rht"] = quantized(reference, utils, x, (1, 16), True)[1]
        tensors[name + "/x"] = x
        for kind, parts in kinds.items():
            for part, t in parts.items():
                tensors[f"{name}/{kind}/{part}"] = t
    write_safetensors(out, tensors, {"torch": torch.__version__, "made_by": "scripts/golden_transformer_engine.py"})


if __name__ == "__main__":
    main()
