#!/usr/bin/env python3
"""The training step of a gated linear attention model in flash-linear-attention (fla): the peer of `nibble bench train`
on models/gla-*.yaml, on the same card.

    train_fla.py MODEL.yaml [--batch 8] [--seq 2048] [--steps 12] [--configs 4] [--jobs 8] [--seconds S] [--hold FILE]
                 [--fused-loss]

Parameters and AdamW's state are BF16, as fla's own benchmarks have them; nibble's BF16 recipe keeps FP32 masters. Each of
fla's Triton kernels is tuned over --configs of its configurations, spread over its list (all of them take many minutes);
with 1 nothing is tuned. --jobs of them are compiled at once where Triton can (3.5 on); what is compiled is kept where
TRITON_CACHE_DIR says. --fused-loss takes the classifier that makes no logits.

Tuning takes minutes, so start it in the background: with --hold it takes two steps, says "ready", and goes on when FILE is
there, so that nothing else runs beside the steps that count. After --seconds no new step is begun.

Prints one JSON line: milliseconds of every step, those of the first among them, in which kernels are compiled and tuned;
tokens a second of the fastest from the third on (null: there was none); how many configurations were allowed, had and
tuned. On the standard error a line a step and a kernel, as they come.

Needs a GPU, torch, transformers, flash-linear-attention.
"""
import argparse
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import torch
import triton

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--seq", type=int, default=2048)
parser.add_argument("--steps", type=int, default=12)
parser.add_argument("--configs", type=int, default=4)
parser.add_argument("--jobs", type=int, default=8)
parser.add_argument("--seconds", type=float, default=1e9)
parser.add_argument("--hold")
parser.add_argument("--fused-loss", action="store_true")
options = parser.parse_args()

BEGAN = time.monotonic()


def note(text):
    print("%7.1f s  %s" % (time.monotonic() - BEGAN, text), file=sys.stderr, flush=True)


# ---- fewer configurations, compiled side by side ----

tuned = triton.autotune
had, kept, tunings = 0, 0, 0


def spread(configs):
    few = min(options.configs, len(configs))
    return [configs[i * len(configs) // few] for i in range(few)]


def tuned_over_few(configs, *args, **kwargs):
    global had, kept
    had += len(configs)
    kept += len(spread(configs))
    return tuned(spread(configs), *args, **kwargs)


triton.autotune = tuned_over_few  # before fla decorates its kernels

pruned = triton.runtime.autotuner.Autotuner.prune_configs


def pruned_and_compiled(self, kwargs):
    """A kernel's configurations, which are timed next, one after another."""
    global tunings
    configs = spread(pruned(self, kwargs))  # some come to their kernels by another way than triton.autotune
    began = time.monotonic()
    tunings += 1
    if options.jobs > 1 and len(configs) > 1 and hasattr(triton, "AsyncCompileMode"):
        try:
            with ThreadPoolExecutor(options.jobs) as pool, triton.AsyncCompileMode(pool):
                for config in configs:
                    self.fn.run(*self.nargs.values(), **{**kwargs, **config.all_kwargs(), "warmup": True})
        except Exception as error:  # then they are compiled one after another, and those that cannot be are left out there
            note("%s: %s" % (self.base_fn.__name__, " ".join(str(error).split())[:120]))
    note("%s: %d configurations, compiled in %.1f s" % (self.base_fn.__name__, len(configs), time.monotonic() - began))
    return configs


triton.runtime.autotuner.Autotuner.prune_configs = pruned_and_compiled

import fla
from fla.models import GLAConfig, GLAForCausalLM
from train_pytorch import read_model


def wait():
    """Behind two steps, until somebody says that the card is free."""
    note("ready")
    while not os.path.exists(options.hold):
        time.sleep(0.05)


def main():
    m = read_model(options.model)
    torch.manual_seed(1)
    config = GLAConfig(hidden_size=m["hidden"], num_hidden_layers=m["layers"], num_heads=m["heads"],
                       intermediate_size=m["intermediate"], vocab_size=m["vocab"], tie_word_embeddings=m.get("tied", False),
                       use_cache=False, fuse_cross_entropy=not options.fused_loss,
                       fuse_linear_cross_entropy=options.fused_loss)
    model = GLAForCausalLM(config).to(torch.bfloat16).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    note("a model of %d parameters; at most %d configurations a kernel, %d of %d in all" %
         (sum(p.numel() for p in model.parameters()), options.configs, kept, had))
    wall, loss = [], None
    for step in range(options.steps):
        if step == 2 and options.hold:
            wait()
        if time.monotonic() - BEGAN > options.seconds:
            break
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
        note("step %d: %.2f ms, %.0f tokens/s" % (step + 1, wall[-1], 1e3 * options.batch * options.seq / wall[-1]))
    tokens = options.batch * options.seq
    print(json.dumps({"torch": torch.__version__, "triton": triton.__version__, "fla": fla.__version__,
                      "parameters": sum(p.numel() for p in model.parameters()), "tokens": tokens,
                      "loss": loss.item() if wall else None, "ms": wall,
                      "tokens_per_second": 1e3 * tokens / min(wall[2:]) if wall[2:] else None,
                      "configurations": {"a kernel": options.configs, "kept": kept, "of": had, "tunings": tunings}}))


main()
