#!/usr/bin/env python3
"""Makes tests/golden/mxfp4.safetensors: inputs, and what MXFP4 makes of them in double precision (arXiv:2605.09825, 2502.20586).

    python3 scripts/golden_mxfp4.py tests/golden/mxfp4.safetensors      (needs numpy and ml_dtypes)

Elements are rounded to nearest by ml_dtypes, stochastically by the definition in docs/formats.md with a Philox of numpy's
own making; scales come from math.frexp. Inputs are such that every step before rounding is exact in FP32 too: integers and
BF16 numbers, rotations by 16 and 64. Tensors of a case NAME:
    NAME/x                       F32 [rows, cols]
    NAME/RULE-SIZE-ROUND/codes   U8 [rows, cols/2], and /scales U8 [rows, cols/32]; RULE floor, ceil, ceil-log2 or
                                 three-quarters; SIZE of the plain Hadamard matrix or 0; ROUND even, sr8 or sr16
    NAME/product-RULE            F64 [rows, rows]: x x^T of the operands decoded, to nearest, not rotated
"""
import json
import math
import struct
import sys

import ml_dtypes
import numpy as np

SEED, TENSOR, STEP, MICRO_BATCH = 7, 0x51ED, 3, 1
GRID = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def philox(counters, key):
    """Philox4x32-10 of counters [n, 4]."""
    c = [counters[:, i].astype(np.uint64) for i in range(4)]
    k = [np.uint64(key[0]), np.uint64(key[1])]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(b >> np.uint64(32)) ^ c[1] ^ k[0], b & low, (a >> np.uint64(32)) ^ c[3] ^ k[1], a & low]
        k = [(k[0] + np.uint64(0x9E3779B9)) & low, (k[1] + np.uint64(0xBB67AE85)) & low]
    return np.stack(c, 1).astype(np.uint32)


def uniform(count, bits):
    groups = np.arange(count // 16)
    words = [philox(np.stack([groups, np.full_like(groups, STEP), np.full_like(groups, MICRO_BATCH),
                              np.full_like(groups, purpose)], 1), (SEED, TENSOR)) for purpose in (0, 1)]
    if bits == 8:
        return words[0].astype("<u4").view(np.uint8).reshape(-1) / 256.0
    halves = [w.astype("<u4").view("<u2").reshape(-1, 8) for w in words]
    return np.concatenate(halves, 1).reshape(-1) / 65536.0


def scale_exponent(amax, rule):
    if amax == 0:
        return -127
    m, e = math.frexp(amax)  # m in [1/2, 1)
    floor_log2, ceil_log2 = e - 1, e - 1 if m == 0.5 else e
    if rule in ("floor", "three-quarters"):
        return floor_log2 - 2
    if rule == "ceil-log2":
        return ceil_log2 - 2
    k = floor_log2 - 2
    return k if 6 * 2.0**k >= amax else k + 1


def code_of(y, rounding, u):
    if rounding == "even":
        return int(np.array(y, np.float32).astype(ml_dtypes.float4_e2m1fn).view(np.uint8))
    a = abs(y)
    step = 0.5 if a < 2 else 1 if a < 4 else 2
    lower = int(np.searchsorted(GRID, np.float32(a + u * step), side="right")) - 1
    return min(lower, 7) | (8 if math.copysign(1, y) < 0 else 0)


def quantize(x, rule, rounding):
    rows, cols = x.shape
    codes, scales = np.zeros((rows, cols), np.uint8), np.zeros((rows, cols // 32), np.uint8)
    u = uniform(rows * cols, 8 if rounding == "sr8" else 16).reshape(rows, cols)
    for r in range(rows):
        for b in range(cols // 32):
            block = x[r, 32 * b:32 * b + 32]
            k = max(scale_exponent(float(np.abs(block).max()), rule), -127)
            scales[r, b] = k + 127
            for i in range(32):
                y = float(block[i]) * 2.0**-k * (0.75 if rule == "three-quarters" else 1)
                codes[r, 32 * b + i] = code_of(y, rounding, u[r, 32 * b + i])
    return codes, scales


def decoded(codes, scales, rule):
    values = np.where(codes & 8, -1, 1) * GRID[codes & 7]
    return values * np.repeat(2.0 ** (scales.astype(float) - 127), 32, axis=1) * (4 / 3 if rule == "three-quarters" else 1)


def rotated(x, n):
    h = np.array([[(-1.0) ** bin(i & j).count("1") for j in range(n)] for i in range(n)]) / math.sqrt(n)
    return (x.reshape(-1, n) @ h).reshape(x.shape) if n else x


def write_safetensors(path, tensors):
    names = {"float32": "F32", "float64": "F64", "uint8": "U8"}
    header, data = {"__metadata__": {"made_by": "scripts/golden_mxfp4.py"}}, b""
    for name, t in tensors.items():
        raw = np.ascontiguousarray(t).tobytes()
        header[name] = {"dtype": names[str(t.dtype)], "shape": list(t.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def inputs():
    random = np.random.default_rng(20260509)
    bf16 = random.standard_normal((16, 128)).astype(ml_dtypes.bfloat16).astype(np.float64)
    integers = random.integers(-120, 121, (16, 128)).astype(np.float64)
    wide = (random.integers(-15, 16, (16, 128)) * 2.0 ** random.integers(-6, 7, (16, 4)).repeat(32, axis=1))
    edges = np.zeros((16, 128))  # the largest of a block at, below and above what the rules tell apart
    for b, top in enumerate((4, 5, 6, 6.25, 7, 7.5, 8, 0, 0.25, 1, 1.5, 1.75, 3, 12, 14, 2**-120)):
        edges[b] = np.linspace(-1, 1, 128).round(2) * 0
        edges[b, ::32] = top
        edges[b, 1::4] = -top * 0.75
        edges[b, 2::8] = top * 0.40625
    return {"bf16": bf16, "integers": integers, "wide": wide, "edges": edges}


def main():
    tensors = {}
    for name, x in inputs().items():
        tensors[name + "/x"] = x.astype(np.float32)
        assert (tensors[name + "/x"] == x).all()
        for rule in ("floor", "ceil", "ceil-log2", "three-quarters"):
            for size in (0, 16, 64) if name in ("integers", "wide") else (0,):
                for rounding in ("even", "sr8", "sr16"):
                    codes, scales = quantize(rotated(x, size), rule, rounding)
                    case = f"{name}/{rule}-{size}-{rounding}"
                    tensors[case + "/codes"] = codes[:, ::2] | codes[:, 1::2] << 4
                    tensors[case + "/scales"] = scales
                    if size == 0 and rounding == "even":
                        d = decoded(codes, scales, rule)
                        tensors[f"{name}/product-{rule}"] = d @ d.T
    write_safetensors(sys.argv[1], tensors)


if __name__ == "__main__":
    main()
