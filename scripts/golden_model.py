#!/usr/bin/env python3
"""Writes tests/golden/model_FAMILY.safetensors: logits, loss and gradients of tiny models by independent code.

llama, qwen3 and olmo2 are Hugging Face's own models (pip install torch transformers safetensors); gla is written here
in plain PyTorch from the published recurrence (arXiv:2312.06635), for fla's kernels need a GPU. Each file holds the
parameters under Hugging Face's names, one micro-batch with several documents in a row, and what came out:
    logits [tokens, vocab], loss [1] (mean over the scored targets), grad.NAME of loss + z_loss * mean(lse^2)

    scripts/golden_model.py [OUT_DIR]
"""
import math
import os
import sys

import torch
from safetensors.torch import save_file

BATCH, SEQ, VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INNER = 2, 16, 32, 16, 2, 2, 1, 8, 32
THETA, EPS, Z_LOSS = 10000.0, 1e-5, 1e-2


def make_batch():
    g = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, VOCAB, (BATCH, SEQ), generator=g)
    targets = torch.randint(0, VOCAB, (BATCH, SEQ), generator=g)
    targets[0, 4] = targets[1, 9] = -1
    doc_start = torch.zeros(BATCH, SEQ, dtype=torch.long)
    doc_start[0, 5:6] = 5
    doc_start[0, 6:] = 6
    doc_start[1, 11:] = 11
    positions = torch.arange(SEQ).expand(BATCH, SEQ) - doc_start
    return tokens, targets, positions, doc_start


def randomise(model):
    g = torch.Generator().manual_seed(2)
    for p in model.parameters():
        base = 1.0 if p.dim() == 1 else 0.0
        scale = 0.2 if p.dim() == 1 else 0.25
        p.data = (base + scale * torch.randn(p.shape, generator=g)).float().double()


def hugging_face(family, tied):
    import transformers

    common = dict(vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                  num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM, intermediate_size=INNER, rms_norm_eps=EPS,
                  max_position_embeddings=64, tie_word_embeddings=tied, attn_implementation="eager", use_cache=False,
                  pad_token_id=None, bos_token_id=None, eos_token_id=None,
                  rope_parameters={"rope_type": "default", "rope_theta": THETA})
    names = {"llama": "Llama", "qwen3": "Qwen3", "olmo2": "Olmo2"}
    if family == "olmo2":
        common.pop("head_dim")
    config = getattr(transformers, names[family] + "Config")(**common)
    model = getattr(transformers, names[family] + "ForCausalLM")(config).double()

    def forward(tokens, positions, doc_start):
        rows, cols = torch.arange(SEQ)[:, None], torch.arange(SEQ)[None, :]
        seen = (cols <= rows)[None] & (cols[None] >= doc_start[:, :, None])
        mask = torch.where(seen, 0.0, torch.finfo(torch.float64).min).double()[:, None]
        return model(input_ids=tokens, position_ids=positions, attention_mask=mask).logits

    return model, forward


class RMSNorm(torch.nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * self.weight


class GatedLinearAttention(torch.nn.Module):
    """S_t = diag(exp(gk_t)) S_{t-1} + k_t v_t^T, o_t = K^-1/2 S_t^T q_t; S is zero where a document starts."""

    def __init__(self, rank=16, normalizer=16):
        super().__init__()
        key, value = HIDDEN // 2, HIDDEN
        self.q_proj, self.k_proj = torch.nn.Linear(HIDDEN, key, False), torch.nn.Linear(HIDDEN, key, False)
        self.v_proj, self.g_proj = torch.nn.Linear(HIDDEN, value, False), torch.nn.Linear(HIDDEN, value, False)
        self.gk_proj = torch.nn.Sequential(torch.nn.Linear(HIDDEN, rank, False), torch.nn.Linear(rank, key, True))
        self.o_proj = torch.nn.Linear(value, HIDDEN, False)
        self.g_norm_swish_gate = RMSNorm(value // HEADS)
        self.normalizer = normalizer

    def forward(self, x, doc_start):
        heads = lambda t: t.unflatten(-1, (HEADS, -1))
        q, k, v, g = heads(self.q_proj(x)), heads(self.k_proj(x)), heads(self.v_proj(x)), heads(self.g_proj(x))
        gate = heads(torch.nn.functional.logsigmoid(self.gk_proj(x)) / self.normalizer)
        out = []
        for b in range(x.shape[0]):
            state, row = torch.zeros(HEADS, q.shape[-1], v.shape[-1], dtype=x.dtype), []
            for t in range(x.shape[1]):
                if doc_start[b, t] == t:
                    state = torch.zeros_like(state)
                state = state * gate[b, t].exp()[..., None] + k[b, t][..., None] * v[b, t][..., None, :]
                row.append((state * q[b, t][..., None]).sum(-2) / math.sqrt(q.shape[-1]))
            out.append(torch.stack(row))
        o = self.g_norm_swish_gate(torch.stack(out)) * torch.nn.functional.silu(g)
        return self.o_proj(o.flatten(-2))


class MLP(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = torch.nn.Linear(HIDDEN, INNER, False), torch.nn.Linear(HIDDEN, INNER, False)
        self.down_proj = torch.nn.Linear(INNER, HIDDEN, False)

    def forward(self, x):
        return self.down_proj(torch.nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class GLABlock(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attn_norm, self.attn, self.mlp_norm, self.mlp = RMSNorm(HIDDEN), GatedLinearAttention(), RMSNorm(HIDDEN), MLP()


class GLA(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.Module()
        self.model.embeddings = torch.nn.Embedding(VOCAB, HIDDEN)
        self.model.layers = torch.nn.ModuleList(GLABlock() for _ in range(LAYERS))
        self.model.norm = RMSNorm(HIDDEN)
        self.lm_head = torch.nn.Linear(HIDDEN, VOCAB, False)


def gla():
    model = GLA().double()

    def forward(tokens, positions, doc_start):
        x = model.model.embeddings(tokens)
        for block in model.model.layers:
            x = x + block.attn(block.attn_norm(x), doc_start)
            x = x + block.mlp(block.mlp_norm(x))
        return model.lm_head(model.model.norm(x))

    return model, forward


def write(family, tied, path):
    model, forward = gla() if family == "gla" else hugging_face(family, tied)
    randomise(model)
    tokens, targets, positions, doc_start = make_batch()
    logits = forward(tokens, positions, doc_start)
    flat, scored = logits.flatten(0, 1), targets.flatten() >= 0
    lse = torch.logsumexp(flat, -1)
    losses = lse - flat.gather(1, targets.flatten().clamp(min=0)[:, None])[:, 0]
    loss, z = losses[scored].mean(), (lse[scored] ** 2).mean()
    (loss + Z_LOSS * z).backward()
    out = {n: t.to(torch.int32).contiguous() for n, t in
           [("tokens", tokens), ("targets", targets), ("positions", positions), ("doc_start", doc_start)]}
    out["logits"], out["loss"] = flat.detach().contiguous(), loss.detach().reshape(1)
    for name, p in model.named_parameters():
        out[name] = p.detach().float().contiguous()
        out["grad." + name] = p.grad.float().contiguous()
    save_file(out, path)
    print(f"{path}: loss {loss.item():.6f}, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "..", "tests", "golden")
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    for family, tied in [("llama", False), ("qwen3", True), ("olmo2", False), ("gla", False)]:
        write(family, tied, os.path.join(folder, f"model_{family}.safetensors"))
