#!/usr/bin/env python3
"""Writes tests/golden/auto_scale.safetensors: sums of FP8 gradients over ranks with the automatic scaling of FP8-LM
(arXiv:2310.18313 section 2.1), by numpy and tables of all codes; no code of nibble's is used.

    scripts/golden_auto_scale.py [FILE]        (pip install numpy)

For 2 and 4 ranks in E4M3 and E5M2, some steps, each from where mu was left by the one before:
  codes [steps, ranks, elements], scales [steps, ranks, tensors]   what ranks have; scales are what a code is worth
  sums [steps, elements], sum_scales [steps, tensors]              what all have afterwards
  mu [steps, tensors]                                              after the step
The tensors (LENGTHS) are: one that is alike on all ranks, whose sum saturates; one of noise; one that only rank 0 has and
no rank in the last step; one number, which is not finite in step 1.
"""
import json
import struct
import sys

import numpy as np

LENGTHS = [96, 160, 24, 1]
STEPS, WORLDS, LIMIT, WINDOW = 5, (2, 4), 1e-5, 1000


def table(exponent_bits, bias, largest):
    """The magnitudes of all finite codes, ascending, which is the order of the codes."""
    mantissa_bits = 7 - exponent_bits
    values = []
    for code in range(128):
        exponent, mantissa = code >> mantissa_bits, code & ((1 << mantissa_bits) - 1)
        if exponent:
            values.append((1 + mantissa / 2**mantissa_bits) * 2.0 ** (exponent - bias))
        else:
            values.append(mantissa / 2**mantissa_bits * 2.0 ** (1 - bias))
        if values[-1] == largest:
            return np.array(values)
    raise ValueError("no such number")


TYPES = {"e4m3": table(4, 7, 448), "e5m2": table(5, 15, 57344)}
NAN = {"e4m3": 0x7F, "e5m2": 0x7F}


def encode(kind, x):
    """Nearest, ties to the even code, saturating; x holds FP32 numbers."""
    values = TYPES[kind]
    codes = np.zeros(x.shape, np.uint8)
    for i, number in np.ndenumerate(x):
        if np.isnan(number):
            codes[i] = NAN[kind]
            continue
        distance = np.abs(values - abs(float(number)))
        near = np.flatnonzero(distance == distance.min())
        best = near[0] if len(near) == 1 or near[0] % 2 == 0 else near[1]
        codes[i] = best | (0x80 if np.signbit(number) else 0)
    return codes


def decode(kind, codes):
    values = np.full(256, np.nan, np.float32)
    values[: len(TYPES[kind])] = TYPES[kind]
    values[128 : 128 + len(TYPES[kind])] = -TYPES[kind]
    values[128] = -0.0
    return values[codes]


def gradients(world, kind):
    rng = np.random.default_rng(17 * world + len(kind))
    codes = np.zeros((STEPS, world, sum(LENGTHS)), np.uint8)
    scales = np.ones((STEPS, world, len(LENGTHS)), np.float32)
    for step in range(STEPS):
        alike = rng.normal(size=LENGTHS[0])
        for rank in range(world):
            parts = [alike * (1 + 0.05 * rng.normal(size=LENGTHS[0])), rng.normal(size=LENGTHS[1]) * 2.0**-rank,
                     rng.normal(size=LENGTHS[2]) * (rank == 0 and step + 1 < STEPS), rng.normal(size=1)]
            row = []
            for i, part in enumerate(parts):
                amax = np.abs(part).max()
                times = 2.0 ** np.floor(np.log2(TYPES[kind][-1] / amax)) if amax > 0 else 1.0
                scales[step, rank, i] = 1 / times
                row.append(encode(kind, (part * times).astype(np.float32)))
            if step == 1 and rank == world - 1:
                row[3][:] = NAN[kind]
            codes[step, rank] = np.concatenate(row)
    return codes, scales


def summed(kind, parts):
    """The tree over ranks: the first and second, the third and fourth, then such pairs; each sum in FP8."""
    while len(parts) > 1:
        parts = [encode(kind, decode(kind, a) + decode(kind, b)) for a, b in zip(parts[::2], parts[1::2])]
    return parts[0]


def exchange(kind, world, codes, scales):
    mu = np.full(len(LENGTHS), np.float32(1 / np.sqrt(world)))
    sums = np.zeros((STEPS, sum(LENGTHS)), np.uint8)
    sum_scales = np.zeros((STEPS, len(LENGTHS)), np.float32)
    mus = np.zeros((STEPS, len(LENGTHS)), np.float32)
    begin = np.concatenate([[0], np.cumsum(LENGTHS)])
    for step in range(STEPS):
        for t, n in enumerate(LENGTHS):
            at = slice(begin[t], begin[t + 1])
            mine = codes[step, :, at]
            zero = (mine & 0x7F == 0).all(axis=1)
            worth = np.float32(1)
            if not zero.all():
                worth = np.float32(scales[step, ~zero, t].max() / mu[t])
            times = np.float32(1) / worth
            parts = [encode(kind, decode(kind, mine[r]) * scales[step, r, t] * times) for r in range(world)]
            sums[step, at], sum_scales[step, t] = summed(kind, parts), worth
            magnitude = sums[step, at] & 0x7F
            if not zero.all() and (magnitude < len(TYPES[kind])).all():
                many = (magnitude == len(TYPES[kind]) - 1).sum() > LIMIT * n
                mu[t] = np.float32(float(mu[t]) * (0.5 if many else 2.0 ** (1 / WINDOW)))
            mus[step, t] = mu[t]
    return sums, sum_scales, mus


def write(path, tensors):
    header, data = {}, b""
    for name, array in tensors.items():
        kind = {"uint8": "U8", "float32": "F32"}[array.dtype.name]
        raw = array.tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def main():
    tensors = {}
    for world in WORLDS:
        for kind in TYPES:
            codes, scales = gradients(world, kind)
            sums, sum_scales, mus = exchange(kind, world, codes, scales)
            for name, array in {"codes": codes, "scales": scales, "sums": sums, "sum_scales": sum_scales, "mu": mus}.items():
                tensors[f"{world}.{kind}.{name}"] = array
            print(world, kind, "mu:", *(" ".join(f"{m:.4f}" for m in row) for row in mus), sep="  ")
    write(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/auto_scale.safetensors", tensors)


if __name__ == "__main__":
    main()
