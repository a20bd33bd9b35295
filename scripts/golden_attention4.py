#!/usr/bin/env python3
"""Makes tests/golden/attention4.safetensors: inputs of attention in four bits, its outputs and gradients.

    python3 scripts/golden_attention4.py OUT.safetensors

Written from docs/recipes/attention-in-four-bits.md and docs/formats.md a second time: codes are looked for among all
values, scales among all of E4M3, everything else runs in double. Gradients are those of the straight-through definition
itself and know no formula of a backward pass: every rounding is replaced by "plus what rounding added here", a constant,
and the function that is left is differentiated by complex steps. Where delta is `output` they are no gradients, and the
formula stands below. Needs numpy.
Tensors of a case NAME:
    NAME/shape                   I32 [6]: batch, seq, heads, kv_heads, head_dim, length of documents (0: one)
    NAME/rule                    I32 [5]: format (1 NVFP4, 2 MXFP4), delta, p_levels, v_blocks, smooth_k
    NAME/q, /k, /v, /do          F32, numbers of BF16
    NAME/o, /lse, /dq, /dk, /dv  F64
"""
import json
import sys

import numpy as np

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E4M3 = np.array([(m / 8 * 2.0**-6) if e == 0 else (1 + m / 8) * 2.0 ** (e - 7) for e in range(16) for m in range(8)][:127])
ONE = np.float32(1)


def nearest(values, x):
    """The nearest of ascending `values` to each x >= 0; of two, the one with the even index."""
    distance = np.abs(np.minimum(x, values[-1])[..., None].astype(np.float64) - values)
    tied = distance == distance.min(-1, keepdims=True)
    even = tied & (np.arange(len(values)) % 2 == 0)
    return values[np.where(even.any(-1), even.argmax(-1), tied.argmax(-1))]


def four_bits(x, form, up=ONE):
    """Blocks along the last axis, in FP32 as the formats have it; what the codes stand for, in double."""
    size = 16 if form == 1 else 32
    out = np.zeros(x.shape)
    for at in range(0, x.shape[-1], size):
        block = x[..., at : at + size].astype(np.float32)
        amax = np.abs(block).max(-1, keepdims=True)
        if form == 1:
            down = ONE / up
            decode = nearest(E4M3, amax * (up * (ONE / np.float32(6)))).astype(np.float32)
            encode = np.where(decode > 0, ONE / np.where(decode > 0, decode * down, ONE), np.float32(0))
        else:
            down = ONE
            decode = np.exp2(np.floor(np.log2(np.where(amax > 0, amax, ONE))) - 2).astype(np.float32)
            encode = ONE / decode
        code = np.copysign(nearest(E2M1, np.abs(block * encode)), block)
        out[..., at : at + size] = code * decode * np.float64(down)
    return out


def seen(case):
    batch, seq, _, _, _, document = case["shape"]
    t = np.arange(seq)
    start = np.maximum(0, t - (t + 5 * np.arange(batch)[:, None]) % document) if document else np.zeros((batch, seq), int)
    return (t >= start[:, :, None]) & (t <= t[:, None])  # [batch, query, key]


def heads_last(x):
    return x.transpose(0, 2, 1, 3)  # [batch, heads, seq, dim]


class Attention:
    """The function of q, k, v with what rounding added at (q0, k0, v0) held."""

    def __init__(self, case, q, k, v):
        batch, seq, heads, kv_heads, dim, _ = case["shape"]
        form, _, levels, blocks, self.smooth = case["rule"]
        self.group, self.scale, self.mask = heads // kv_heads, 1 / np.sqrt(dim), seen(case)[:, None]
        flat = self.flat(k)
        self.add_q = four_bits(q, form) - q
        self.add_k = four_bits(flat, form) - flat
        turned = v if blocks else np.swapaxes(v, -1, -2)
        rounded = four_bits(turned, form)
        self.add_v = (rounded if blocks else np.swapaxes(rounded, -1, -2)) - v
        s = self.scores(q, k)
        largest = s.max(-1, keepdims=True)
        p = np.exp(s - largest)
        total = p.sum(-1, keepdims=True)
        up = np.float32(2688) if levels else ONE
        self.add_p = (four_bits(p, form, up) - p) / total
        self.lse = (largest + np.log(total))[..., 0]

    def flat(self, k):
        return k - k.mean(-2, keepdims=True) if self.smooth else k

    def scores(self, q, k):
        keys = np.repeat(self.flat(k) + self.add_k, self.group, -3)
        return np.where(self.mask, self.scale * (q + self.add_q) @ np.swapaxes(keys, -1, -2), -np.inf)

    def softmax(self, q, k):
        s = self.scores(q, k)
        p = np.where(self.mask, np.exp(np.where(self.mask, s - s.real.max(-1, keepdims=True), 0)), 0)
        return p / p.sum(-1, keepdims=True)

    def __call__(self, q, k, v):
        return (self.softmax(q, k) + self.add_p) @ np.repeat(v + self.add_v, self.group, -3)


def complex_steps(f, inputs, index):
    """f takes a stack of any of its inputs."""
    h, most = 1e-30, 128
    slope = np.zeros(inputs[index].size)
    for at in range(0, slope.size, most):
        x = list(inputs)
        n = min(most, slope.size - at)
        x[index] = np.repeat(inputs[index][None].astype(complex), n, 0)
        x[index].reshape(n, -1)[np.arange(n), at + np.arange(n)] += 1j * h
        slope[at : at + n] = f(*x).imag / h
    return slope.reshape(inputs[index].shape)


def by_formula(f, q, k, v, d_o):
    """With delta = do.o of the o that was given."""
    p, o = f.softmax(q, k), f(q, k, v)
    dp = d_o @ np.swapaxes(np.repeat(v + f.add_v, f.group, 1), -1, -2)
    ds = f.scale * p * (dp - (d_o * o).sum(-1, keepdims=True))
    batch, heads, seq, dim = q.shape
    together = lambda x: x.reshape(batch, heads // f.group, f.group, seq, dim).sum(2)
    return (ds @ np.repeat(f.flat(k) + f.add_k, f.group, 1), together(np.swapaxes(ds, -1, -2) @ (q + f.add_q)),
            together(np.swapaxes(p + f.add_p, -1, -2) @ d_o))


def bf16(x):
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


CASES = {
    "nvfp4": ((1, 37, 2, 1, 24, 0), (1, 0, 0, 0, 0)),
    "nvfp4-documents": ((2, 20, 2, 2, 16, 7), (1, 0, 0, 0, 0)),
    "nvfp4-sage": ((1, 35, 1, 1, 16, 0), (1, 0, 1, 0, 1)),
    "nvfp4-head": ((1, 18, 2, 1, 16, 0), (1, 0, 0, 1, 0)),
    "nvfp4-output": ((1, 40, 2, 1, 16, 0), (1, 1, 0, 0, 0)),
    "mxfp4": ((1, 36, 1, 1, 40, 0), (2, 0, 0, 0, 0)),
    "mxfp4-head": ((1, 20, 1, 1, 40, 13), (2, 0, 0, 1, 1)),
}


def outcome(name, number):
    shape, rule = CASES[name]
    batch, seq, heads, kv_heads, dim, _ = shape
    case = {"shape": shape, "rule": rule}
    random = np.random.default_rng(20260300 + number)
    q, d_o = (bf16(random.standard_normal((batch, seq, heads, dim)) * s) for s in (1.5, 1))
    k, v = (bf16(random.standard_normal((batch, seq, kv_heads, dim)) * s + m) for s, m in ((1.5, 0.5), (1, 0)))
    inputs = [heads_last(x).astype(np.float64) for x in (q, k, v)]
    slope = heads_last(d_o).astype(np.float64)
    f = Attention(case, *inputs)
    loss = lambda *x: (f(*x) * slope).sum((-4, -3, -2, -1))
    gradients = by_formula(f, *inputs, slope) if rule[1] else [complex_steps(loss, inputs, i) for i in range(3)]
    found = {"shape": np.array(shape, "<i4"), "rule": np.array(rule, "<i4"), "q": q, "k": k, "v": v, "do": d_o,
             "o": heads_last(f(*inputs)), "lse": f.lse}
    found.update({d: heads_last(g) for d, g in zip(("dq", "dk", "dv"), gradients)})
    return {f"{name}/{what}": np.ascontiguousarray(x) for what, x in found.items()}


def write_safetensors(path, tensors, metadata):
    header, at = {"__metadata__": metadata}, 0
    for name, t in tensors.items():
        header[name] = {"dtype": {"float32": "F32", "float64": "F64", "int32": "I32"}[str(t.dtype)],
                        "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for t in tensors.values():
            out.write(t.tobytes())


def main():
    tensors = {}
    for number, name in enumerate(CASES):
        tensors.update(outcome(name, number))
    write_safetensors(sys.argv[1], tensors, {"source": "scripts/golden_attention4.py", "numpy": np.__version__})


if __name__ == "__main__":
    main()
