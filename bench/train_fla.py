#!/usr/bin/env python3
"""The training step of a gated linear attention model in flash-linear-attention (fla): the peer of `nibble bench train`
on models/gla-*.yaml, on the same card.

    train_fla.py MODEL.yaml [--batch 8] [--seq 2048] [--steps 12] [--configs 4] [--fused-loss]

Parameters and AdamW's state are BF16, as fla's own benchmarks have them; nibble's BF16 recipe keeps FP32 masters. Each of
fla's Triton kernels is tuned over --configs of its configurations, spread over its list (all of them take many minutes).
--fused-loss takes the classifier that makes no logits. Prints one JSON line: milliseconds of every step, those of the
first among them, in which kernels are compiled and tuned.

Needs a GPU, torch, transformers, flash-linear-attention.
"""
import argparse
import json
import time

import torch
import triton

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--seq", type=int, default=2048)
parser.add_argument("--steps", type=int, default=12)
parser.add_argument("--configs", type=int, default=4)
parser.add_argument("--fused-loss", action="store_true")
options = parser.parse_args()

tuned = triton.autotune


def tuned_over_few(configs, *args, **kwargs):
    few = min(options.configs, len(configs))
    return tuned([configs[i * len(configs) // few] for i in range(few)], *args, **kwargs)


triton.autotune = tuned_over_few  # before fla decorates its kernels

import fla
from fla.models import GLAConfig, GLAForCausalLM
from train_pytorch import read_model


def main():
    m = read_model(options.model)
    torch.manual_seed(1)
    config = GLAConfig(hidden_size=m["hidden"], num_hidden_layers=m["layers"], num_heads=m["heads"],
                       intermediate_size=m["intermediate"], vocab_size=m["vocab"], tie_word_embeddings=m.get("tied", False),
                       use_cache=False, fuse_cross_entropy=not options.fused_loss,
                       fuse_linear_cross_entropy=options.fused_loss)
    model = GLAForCausalLM(config).to(torch.bfloat16).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    wall, loss = [], None
    for _ in range(options.steps):
        tokens = torch.randint(m["vocab"], (options.batch, options.seq), device="cuda")
        torch.cuda.synchronize()
        began = time.monotonic()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        wall.append(1e3 * (time.monotonic() - began))
    print(json.dumps({"torch": torch.__version__, "triton": triton.__version__, "fla": fla.__version__,
                      "parameters": sum(p.numel() for p in model.parameters()), "tokens": options.batch * options.seq,
                      "loss": loss.item(), "ms": wall}))


main()
