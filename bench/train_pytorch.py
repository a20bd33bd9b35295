#!/usr/bin/env python3
"""The training step of a LLaMA in PyTorch, in FP32, in BF16 over FP32 masters or with NVFP4 emulated by tensor operations:
the peer of `nibble train` that bench/train.sh measures beside it, and of `nibble bench train` (bench/gpu.sh).

    train_pytorch.py MODEL.yaml --precision fp32|bf16|nvfp4 [--batch 8] [--seq 256] [--threads 1] [--steps 5]
                     [--device cuda] [--compile]

Prints one JSON line: milliseconds of every step, wall time and processor time.

The emulation is recipes/nvfp4.yaml: six roles, 1x16 blocks for X and dY, 16x16 for W, stochastic rounding of dY, a
16-point Hadamard rotation of both wgrad operands, embedding, head and the last 15 % of the blocks not quantized. Numbers
are quantized and decoded in FP32, products are FP32 products: what research code does that has no FP4 kernels. On a GPU
activations and products are BF16 under autocast, as with --precision bf16; the loss is compiled with the model.
"""
import argparse
import json
import math
import time

import torch
import torch.nn.functional as F


# ---- NVFP4 by tensor operations ----

def round_e2m1(x, stochastic):
    """|x| <= 6 to the grid 0, .5, 1, 1.5, 2, 3, 4, 6: steps of 1/2 below 2, of 1 below 4, of 2 below 6."""
    size = x.abs()
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    at = size / step
    at = torch.floor(at + torch.rand_like(at)) if stochastic else torch.round(at)
    return torch.clamp(at * step, max=6.0).copysign(x)


def fake_nvfp4(x, tile=False, stochastic=False):
    """[rows, cols] quantized along cols and decoded: E4M3 scales of 1x16 (or 16x16) blocks under an FP32 tensor scale."""
    rows, cols = x.shape
    x = x.float()
    tensor = x.abs().amax().clamp(min=1e-30) / (6.0 * 448.0)
    if tile:
        blocks = x.view(rows // 16, 16, cols // 16, 16)
        amax = blocks.abs().amax(dim=(1, 3), keepdim=True)
    else:
        blocks = x.view(rows, cols // 16, 16)
        amax = blocks.abs().amax(dim=-1, keepdim=True)
    scale = (amax / (6.0 * tensor)).clamp(max=448.0).to(torch.float8_e4m3fn).to(torch.float32) * tensor
    inverse = torch.where(scale > 0, 1.0 / scale, 0.0)
    return (round_e2m1((blocks * inverse).clamp(-6.0, 6.0), stochastic) * scale).view(rows, cols)


def hadamard(n=16):
    h = torch.ones(1, 1)
    while h.shape[0] < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
    signs = torch.tensor([1.0 if i * 7 % 5 < 3 else -1.0 for i in range(n)])
    return signs[:, None] * h / math.sqrt(n)


H = hadamard()


def rotate(x):
    """Along the last dimension, 16 at a time."""
    return (x.reshape(-1, 16) @ H.to(x)).view(x.shape)


def product(a, b):
    """In FP32 on a CPU; of BF16 numbers, which hold codes times block scales of a tensor, on a GPU."""
    return a.to(torch.bfloat16) @ b.to(torch.bfloat16) if a.is_cuda else a @ b


class NVFP4Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        q = fake_nvfp4(w, tile=True)
        ctx.save_for_backward(x, q)
        return product(fake_nvfp4(x), q.t())

    @staticmethod
    def backward(ctx, dy):
        x, q = ctx.saved_tensors
        dx = product(fake_nvfp4(dy, stochastic=True), q).to(x.dtype)
        dy_t = fake_nvfp4(rotate(dy.t().contiguous()), stochastic=True)
        x_t = fake_nvfp4(rotate(x.t().contiguous()))
        return dx, product(dy_t, x_t.t()).float()


# ---- the model ----

class Linear(torch.nn.Module):
    def __init__(self, inputs, outputs, quantized):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(outputs, inputs) * 0.02)
        self.quantized = quantized

    def forward(self, x):
        if not self.quantized:
            return F.linear(x, self.weight)
        return NVFP4Linear.apply(x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class Block(torch.nn.Module):
    def __init__(self, m, quantized):
        super().__init__()
        self.heads, self.kv_heads, self.width = m["heads"], m["kv_heads"], m["hidden"] // m["heads"]
        hidden, kv = m["hidden"], m["kv_heads"] * self.width
        self.norm1, self.norm2 = torch.nn.RMSNorm(hidden), torch.nn.RMSNorm(hidden)
        self.q, self.k, self.v = (Linear(hidden, n, quantized) for n in (hidden, kv, kv))
        self.o = Linear(hidden, hidden, quantized)
        self.gate, self.up = (Linear(hidden, m["intermediate"], quantized) for _ in range(2))
        self.down = Linear(m["intermediate"], hidden, quantized)

    def turn(self, x, cos, sin):
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def forward(self, x, cos, sin):
        batch, seq, _ = x.shape
        h = self.norm1(x)
        q = self.q(h).view(batch, seq, self.heads, self.width).transpose(1, 2)
        k = self.k(h).view(batch, seq, self.kv_heads, self.width).transpose(1, 2)
        v = self.v(h).view(batch, seq, self.kv_heads, self.width).transpose(1, 2)
        o = F.scaled_dot_product_attention(self.turn(q, cos, sin), self.turn(k, cos, sin), v, is_causal=True,
                                           enable_gqa=self.heads != self.kv_heads)
        x = x + self.o(o.transpose(1, 2).reshape(batch, seq, -1))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(torch.nn.Module):
    def __init__(self, m, quantized):
        super().__init__()
        plain = math.ceil(0.15 * m["layers"])
        self.embedding = torch.nn.Embedding(m["vocab"], m["hidden"])
        self.blocks = torch.nn.ModuleList(
            Block(m, quantized and i < m["layers"] - plain) for i in range(m["layers"]))
        self.norm = torch.nn.RMSNorm(m["hidden"])
        self.head = Linear(m["hidden"], m["vocab"], False)
        self.width = m["hidden"] // m["heads"]

    def forward(self, tokens):
        half = torch.arange(self.width // 2, dtype=torch.float32, device=tokens.device)
        angles = torch.arange(tokens.shape[1], device=tokens.device)[:, None] * 10000.0 ** (-2 * half / self.width)
        cos, sin = angles.cos(), angles.sin()
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.head(self.norm(x))


def read_model(path):
    """The flat keys of a model file that decide its shape."""
    m = {}
    for line in open(path):
        key, colon, value = line.split("#")[0].partition(":")
        value = value.strip()
        if colon and (value.isdigit() or value in ("true", "false")):
            m[key.strip()] = int(value) if value.isdigit() else value == "true"
    m.setdefault("kv_heads", m["heads"])
    return m


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--precision", choices=["fp32", "bf16", "nvfp4"], required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    m = read_model(a.model)
    gpu = a.device.startswith("cuda")
    if gpu:
        torch.set_float32_matmul_precision("high")
    model = Llama(m, a.precision == "nvfp4").to(a.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)

    def loss_of(tokens):
        with torch.autocast(a.device.split(":")[0], torch.bfloat16, enabled=gpu or a.precision == "bf16"):
            logits = model(tokens[:, :-1])
        return F.cross_entropy(logits.view(-1, m["vocab"]).float(), tokens[:, 1:].reshape(-1))

    run = torch.compile(loss_of) if a.compile else loss_of
    wall, processor, loss = [], [], None
    for _ in range(a.steps):
        tokens = torch.randint(m["vocab"], (a.batch, a.seq + 1)).to(a.device)
        if gpu:
            torch.cuda.synchronize()
        began, began_processor = time.monotonic(), time.process_time()
        loss = run(tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if gpu:
            torch.cuda.synchronize()
        wall.append(1e3 * (time.monotonic() - began))
        processor.append(1e3 * (time.process_time() - began_processor))
    print(json.dumps({"torch": torch.__version__, "parameters": sum(p.numel() for p in model.parameters()),
                      "tokens": a.batch * a.seq, "loss": loss.item(), "ms": wall, "processor_ms": processor}))


if __name__ == "__main__":
    main()
