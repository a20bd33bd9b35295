#!/usr/bin/env python3
"""Makes tests/golden/hifloat4.safetensors: inputs, and what HiFloat4 (arXiv:2602.11287) makes of them.

    python3 scripts/golden_hifloat4.py HIFLOAT4/hifx4_npu/HiF4_NVFP4_v14f16.py OUT.safetensors

Codes and scales come from the definition in docs/formats.md, written here a second time in double; values also from the
authors' formal code (Huawei's HiFloat4 repository, commit 999cc07), which must agree in every bit. Needs numpy.
Tensors of a case NAME, all of BF16 numbers:
    NAME/x       F32 [rows, cols]
    NAME/scales  U8 [rows, cols / 16]: four bytes for each 64
    NAME/codes   U8 [rows, cols / 2]
    NAME/values  F32 [rows, cols], the authors' (but for `zeros`)
"""
import importlib.util
import json
import sys

import numpy as np


def rne(x, bits):
    """x >= 0 rounded to so many significant bits, ties to even."""
    exponent = np.floor(np.log2(np.where(x > 0, x, 1.0)))
    step = np.exp2(exponent - (bits - 1))
    return np.where(x > 0, np.rint(x / step) * step, 0.0)


def hifloat4(x):
    """Scale bytes and codes of [rows, cols]."""
    rows, cols = x.shape
    g = np.abs(x.astype(np.float64)).reshape(rows, cols // 64, 64)
    by4 = g.reshape(rows, -1, 16, 4).max(-1)
    by8 = by4.reshape(rows, -1, 8, 2).max(-1)
    scale = rne(np.clip(rne(by8.max(-1) * 0.142578125, 8), 2.0**-48, 1.5 * 2.0**15), 3)
    r = rne(1 / scale, 8)[..., None]
    eights = by8 * r >= 4
    fours = by4 * r / np.exp2(np.repeat(eights, 2, -1)) >= 2
    doublings = np.repeat(eights, 8, -1) + np.repeat(fours, 4, -1).astype(int)
    magnitude = np.minimum(np.floor(g * r / np.exp2(doublings) * 4 + 0.5), 7).astype(int)
    code = magnitude + 8 * np.signbit(x).reshape(g.shape)
    exponent = np.floor(np.log2(scale)).astype(int)
    byte = (exponent + 48) * 4 + np.rint((scale / np.exp2(exponent) - 1) * 4).astype(int)
    bits = lambda flags: (flags * (1 << np.arange(flags.shape[-1]))).sum(-1)
    words = byte | bits(eights) << 8 | bits(fours) << 16
    scales = words.astype("<u4").view(np.uint8).reshape(rows, cols // 16)
    codes = code.reshape(rows, cols // 2, 2)
    values = np.where(np.signbit(x), -1.0, 1.0) * (magnitude * 0.25 * np.exp2(doublings) * scale[..., None]).reshape(rows, cols)
    return scales, (codes[..., 0] | codes[..., 1] << 4).astype(np.uint8), values.astype(np.float32)


def bf16(x):
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def inputs():
    random = np.random.default_rng(20260211)
    normal = lambda *shape: random.standard_normal(shape)
    wide = normal(32, 192) * np.exp2(random.integers(-30, 30, (32, 192)))
    mixed = normal(32, 128) * np.exp2(random.integers(-3, 4, (32, 32)).repeat(4, 1))
    quarters = random.integers(-28, 29, (48, 64)) / 8.0  # ties of every kind under a scale of 1 / 2
    quarters[:, 0] = 3.5
    far = np.exp2(np.arange(-70, 58)).repeat(64).reshape(64, 128) * (1 + random.integers(0, 128, (64, 128)) / 128)
    outlier = normal(16, 64)
    outlier[:, 7] = 200
    zeros = np.zeros((4, 64))
    zeros[1, 5], zeros[2, ::3] = -0.0, -0.0
    return {"normal": normal(48, 256), "wide": wide, "mixed": mixed, "quarters": quarters, "far": far,
            "outlier": outlier, "zeros": zeros}


def write_safetensors(path, tensors, metadata):
    header, at = {"__metadata__": metadata}, 0
    for name, t in tensors.items():
        header[name] = {"dtype": {"float32": "F32", "uint8": "U8"}[str(t.dtype)], "shape": list(t.shape),
                        "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for t in tensors.values():
            out.write(np.ascontiguousarray(t).tobytes())


def main():
    formal, out = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("formal", formal)
    authors = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(authors)
    tensors = {}
    for name, numbers in inputs().items():
        x = bf16(numbers)
        scales, codes, values = hifloat4(x)
        if name == "zeros":  # theirs takes the logarithm of zero
            theirs = values
        else:
            theirs = authors.To_HiFX(x.T.astype(np.float64)).T.astype(np.float32)
        if not np.array_equal(theirs, values):
            sys.exit(f"{name}: the authors' values differ in {np.sum(theirs != values)} of {x.size}")
        tensors |= {name + "/x": x, name + "/scales": scales, name + "/codes": codes, name + "/values": theirs}
    write_safetensors(out, tensors, {"numpy": np.__version__, "made_by": "scripts/golden_hifloat4.py"})


if __name__ == "__main__":
    main()
