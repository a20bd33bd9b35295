#!/usr/bin/env python3
"""Writes tests/golden/model_ngpt.safetensors: a tiny nGPT model by NVIDIA's public code.

    scripts/golden_ngpt.py CHECKOUT_OF_NVIDIA_NGPT [OUT_DIR]        (pip install torch safetensors)

The model is built by the model.py of github.com/NVIDIA/ngpt, read from the checkout and run in double precision. What is
replaced, because it is no part of what is compared:
  - flash_attn, by the same softmax in plain PyTorch, with documents;
  - its rotary embedding, whose public form multiplies where it should add, by that of Hugging Face (half-split pairs);
  - the types: bfloat16 and float32 become float64.
The file has the names
and the layout of nibble: k has as many heads as q; s_qk, s_u, s_v, s_z and alpha as they are stored.
"""
import math
import os
import sys
import types

import torch
from safetensors.torch import save_file

import golden_model as small

HEADS, HIDDEN, INNER = small.HEADS, small.HIDDEN, small.INNER
at = {}  # positions and documents of the batch at hand


def attention(q, k, v, softmax_scale, **_):
    logits = torch.einsum("bthd,bshd->bhts", q, k) * softmax_scale
    t = torch.arange(q.shape[1])
    seen = (t[None, :] <= t[:, None])[None] & (t[None, None] >= at["doc_start"][:, :, None])
    p = logits.masked_fill(~seen[:, None], -math.inf).softmax(-1)
    return torch.einsum("bhts,bshd->bthd", p, v)


def rotate(_, q, k):
    half = q.shape[-1] // 2
    frequencies = small.THETA ** (-torch.arange(half) / half)
    angles = (at["positions"][..., None] * frequencies)[:, None]
    cos, sin = angles.cos(), angles.sin()

    def turn(x):
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    return turn(q), turn(k)


def nvidia(checkout):
    text = open(os.path.join(checkout, "model.py")).read()
    for narrow in ("bfloat16", "float32"):
        text = text.replace(f"torch.{narrow}", "torch.float64")
    text = text.replace("4 * config.n_embd", str(INNER))  # nibble's models say their inner width
    sys.modules["flash_attn"] = types.SimpleNamespace(flash_attn_qkvpacked_func=None, flash_attn_func=attention)
    module = types.ModuleType("ngpt")
    sys.modules["ngpt"] = module
    exec(compile(text, "model.py", "exec"), module.__dict__)
    module.apply_rotary_position_embeddings = rotate
    return module.GPT(module.GPTConfig(block_size=64, vocab_size=small.VOCAB, n_layer=small.LAYERS, n_head=HEADS,
                                       n_embd=HIDDEN, base_scale=HIDDEN ** -0.5, use_nGPT=1)).double()


def randomise(model):
    g = torch.Generator().manual_seed(2)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        value = p.data * (1 + 0.2 * noise) if p.dim() == 1 else noise / noise.norm(
            dim=0 if name.endswith("c_proj.weight") else 1, keepdim=True)
        p.data = value.float().double()


def named(model, of):
    """Nibble's names for parameters (or their gradients)."""
    yield "model.embed_tokens.weight", of(model.transformer.wte.weight)
    for i, b in enumerate(model.transformer.h):
        here = f"model.layers.{i}."
        for ours, theirs in [("q", b.query), ("k", b.key), ("v", b.value), ("o", b.att_c_proj)]:
            yield f"{here}self_attn.{ours}_proj.weight", of(theirs.weight)
        yield here + "self_attn.s_qk", of(b.sqk)
        yield here + "self_attn.alpha", of(b.attn_alpha)
        yield here + "mlp.alpha", of(b.mlp_alpha)
        up, gate = of(b.c_fc.weight).chunk(2)
        s_u, s_v = of(b.suv).chunk(2)
        yield here + "mlp.up_proj.weight", up
        yield here + "mlp.gate_proj.weight", gate
        yield here + "mlp.down_proj.weight", of(b.mlp_c_proj.weight)
        yield here + "mlp.s_u", s_u
        yield here + "mlp.s_v", s_v
    yield "lm_head.weight", of(model.lm_head.weight)
    yield "lm_head.s_z", of(model.sz)


def write(checkout, path):
    model = nvidia(checkout)
    randomise(model)
    tokens, targets, positions, doc_start = small.make_batch()
    at.update(positions=positions, doc_start=doc_start)
    flat = model(tokens, tokens)[0].flatten(0, 1)
    scored = targets.flatten() >= 0
    lse = torch.logsumexp(flat, -1)
    losses = lse - flat.gather(1, targets.flatten().clamp(min=0)[:, None])[:, 0]
    loss, z = losses[scored].mean(), (lse[scored] ** 2).mean()
    (loss + small.Z_LOSS * z).backward()
    out = {n: t.to(torch.int32).contiguous() for n, t in
           [("tokens", tokens), ("targets", targets), ("positions", positions), ("doc_start", doc_start)]}
    out["logits"], out["loss"] = flat.detach().contiguous(), loss.detach().reshape(1)
    for name, x in named(model, lambda p: p.data):
        out[name] = x.float().contiguous()
    for name, x in named(model, lambda p: p.grad):
        out["grad." + name] = x.float().contiguous()
    save_file(out, path)
    print(f"{path}: loss {loss.item():.6f}, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    folder = sys.argv[2] if len(sys.argv) > 2 else os.path.join(os.path.dirname(__file__), "..", "tests", "golden")
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    write(sys.argv[1], os.path.join(folder, "model_ngpt.safetensors"))
