#!/usr/bin/env python3
"""Makes tests/golden/averis.safetensors: a linear layer under mean-residual splitting (arXiv:2603.10444), by numpy.

    python3 scripts/golden_averis.py tests/golden/averis.safetensors      (needs numpy and ml_dtypes)

Written from the method's equations with matrices of ones, not from nibble's rearrangement: with 1 mu^T and 1 nu^T as whole
matrices, wgrad is the product of two sums. Codes are NVFP4 by the definition in docs/formats.md, in FP32; elements are rounded
by ml_dtypes or, stochastically, by a Philox of numpy's own making; sums are in double. Tensors:
    x [64, 64], w [48, 64], dy [64, 48]    inputs: BF16 numbers, w FP32
    CASE/y, CASE/dx, CASE/dw               F32, of sums in double; cases are those of CASES
"""
import json
import math
import struct
import sys

import ml_dtypes
import numpy as np

F = np.float32
SEED, STEP, MICRO_BATCH = 9, 5, 1
INPUT, LAYER = "layers.0.self_attn.input", "layers.0.self_attn.q_proj"
GRID = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
M, K, N = 64, 64, 48

# name: (split X, split dY, means coded, cross terms, stochastic, size of wgrad's Hadamard matrix)
CASES = {
    "both": (True, True, True, True, False, 0),
    "bf16": (True, True, False, True, False, 0),
    "no-cross": (True, True, True, False, False, 0),
    "x": (True, False, True, True, False, 0),
    "dy": (False, True, True, True, False, 0),
    "rotated": (True, True, True, True, False, 16),
    "stochastic": (True, True, True, True, True, 0),
}


def name_hash(module, role):
    h = 2166136261
    for byte in (module + "/" + role).encode():
        h = (h ^ byte) * 16777619 & 0xFFFFFFFF
    return h


def philox(counters, key):
    """Philox4x32-10 of counters [n, 4]."""
    c = [counters[:, i].astype(np.uint64) for i in range(4)]
    k = [np.uint64(key[0]), np.uint64(key[1])]
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(b >> half) ^ c[1] ^ k[0], b & low, (a >> half) ^ c[3] ^ k[1], a & low]
        k = [(k[0] + np.uint64(0x9E3779B9)) & low, (k[1] + np.uint64(0xBB67AE85)) & low]
    return np.stack(c, 1).astype("<u4")


def uniform(shape, tensor):
    groups = np.arange(shape[0] * shape[1] // 16)
    counters = np.stack([groups, np.full_like(groups, STEP), np.full_like(groups, MICRO_BATCH), np.zeros_like(groups)], 1)
    return (philox(counters, (SEED, tensor)).view(np.uint8) / 256.0).reshape(shape)


def bf16(x):
    return x.astype(F).astype(ml_dtypes.bfloat16).astype(F)


def nvfp4(x, tensor=None):
    """What 1x16 blocks of x decode to; rounded by the bits of `tensor`, or to nearest."""
    x = x.astype(F)
    rows, cols = x.shape
    blocks = x.reshape(rows, cols // 16, 16)
    s = min(F(2688) / np.abs(x).max(), np.finfo(F).max)
    decode = F(1) / F(s)
    byte = (np.abs(blocks).max(2) * F(F(s) * (F(1) / F(6)))).astype(ml_dtypes.float8_e4m3fn).astype(F)
    scale = byte * decode
    y = blocks * (F(1) / scale)[:, :, None]
    if tensor is None:
        q = y.astype(ml_dtypes.float4_e2m1fn).astype(F)
    else:
        a, u = np.abs(y), uniform((rows, cols), tensor).reshape(y.shape)
        step = np.where(a < 2, 0.5, np.where(a < 4, 1, 2))
        q = GRID[np.minimum(np.searchsorted(GRID, (a + u * step).astype(F), side="right") - 1, 7)] * np.sign(y)
    return (q.astype(F) * scale[:, :, None]).reshape(rows, cols).astype(np.float64)


def layer(x, w, dy, split_x, split_dy, coded, cross, stochastic, size):
    def q(numbers, module, role):
        return nvfp4(numbers, name_hash(module, role) if stochastic else None)

    def split(numbers, module, role, wanted):
        """The residual, and the mean as multiplied."""
        if not wanted:
            return numbers, np.zeros((1, numbers.shape[1]))
        mean = bf16(numbers.astype(np.float64).mean(0, keepdims=True))
        return bf16(numbers - mean), q(mean, module, role) if coded else mean.astype(np.float64)

    h = np.array([[(-1.0) ** bin(i & j).count("1") for j in range(size)] for i in range(size)]) / math.sqrt(size or 1)

    def turned(numbers):  # along the tokens, which are its columns
        return (numbers.reshape(-1, size) @ h).reshape(numbers.shape) if size else numbers

    r, mu = split(x, INPUT, "averis.x", split_x)
    g, nu = split(dy, LAYER, "averis.dy", split_dy)
    ones = np.ones((M, 1))
    wq, wt = q(w, LAYER, "fprop.w"), q(w.T, LAYER, "dgrad.w")
    w16 = bf16(w).astype(np.float64)
    y = q(r, INPUT, "fprop.x") @ wq.T + ones @ (mu @ (wq if coded else w16).T)
    dx = q(g, LAYER, "dgrad.dy") @ wt.T + ones @ (nu @ (wt.T if coded else w16))
    gq, rq = q(turned(g.T), LAYER, "wgrad.dy"), q(turned(r.T), INPUT, "wgrad.x")
    ones_t = turned(ones.T)
    if cross or not (split_x and split_dy):
        dw = (gq + nu.T @ ones_t) @ (rq + mu.T @ ones_t).T
    else:
        dw = gq @ rq.T + M * nu.T @ mu
    return {"y": y, "dx": dx, "dw": dw}


def write_safetensors(path, tensors):
    header, data = {"__metadata__": {"made_by": "scripts/golden_averis.py"}}, b""
    for name, t in tensors.items():
        raw = np.ascontiguousarray(t, F).tobytes()
        header[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def main():
    random = np.random.default_rng(20260310)
    common = 4 * random.standard_normal((1, K)) * (random.random((1, K)) < 0.25)  # few channels, loud, as papers describe them
    x = bf16(random.standard_normal((M, K)) + common)
    w = (0.1 * random.standard_normal((N, K))).astype(F)
    dy = bf16(0.01 * (random.standard_normal((M, N)) + 2 * random.standard_normal((1, N))))
    tensors = {"x": x, "w": w, "dy": dy}
    for name, case in CASES.items():
        for what, numbers in layer(x, w, dy, *case).items():
            tensors[f"{name}/{what}"] = numbers
    write_safetensors(sys.argv[1], tensors)


if __name__ == "__main__":
    main()
