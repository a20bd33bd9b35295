#!/usr/bin/env python3
"""nibble.torch beside `nibble train` and beside torch's own emulation; see docs/python.md.

    trains.py twins NIBBLE      a transformers LLaMA trained 50 steps under apply: the losses of nibble train on the same data
    trains.py kinds RECIPES     a small ViT and a T5, which nibble has no family for, under every recipe of the folder
    trains.py ways              copies, checkpoints, micro-batches, autocast: the same bits where the same bits are promised
    trains.py speed [DEVICE]    a step beside FP32 and beside NVFP4 emulated by tensor operations
    trains.py gpu [RECIPE...]   the LLaMA of `twins` on a GPU: losses of 50 steps beside those on the CPU; twice the same bits

Prints rows for docs/ledger.md and fails where a row is beyond its bound.
"""
import copy
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import time

import torch
from torch import nn

import nibble
import nibble.torch

STEPS, SEQ, BATCH, VOCAB, RATE = 50, 128, 8, 512, 2e-4
# Relative, each step: torch keeps the residual stream in FP32, nibble in BF16; dX of q, k, v is rounded once in nibble and
# three times here; stochastic rounding of X's operands draws bits under other names.
BOUND = 0.05
MEAN_BOUND = 0.01


def llama():
    import transformers
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=VOCAB, hidden_size=256, num_hidden_layers=6, num_attention_heads=4,
                                      num_key_value_heads=2, intermediate_size=768, max_position_embeddings=256,
                                      rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False, bos_token_id=None,
                                      eos_token_id=None, pad_token_id=None, attn_implementation="eager")
    return transformers.AutoModelForCausalLM.from_config(config)


def tokens_of(count):
    """A text with something to learn: each token is a function of the two before it, with a tenth of noise."""
    out, state = [1, 2], 12345
    while len(out) < count:
        state = (state * 1103515245 + 12345) % 2**31
        noise = state >> 8
        out.append(noise % VOCAB if noise % 10 == 0 else (7 * out[-1] + 3 * out[-2] + 11) % 61)
    return out


def write_shard(path, tokens):
    with open(path, "wb") as f:
        f.write(struct.pack("<256i", 20240520, 1, len(tokens), *[0] * 253))
        f.write(struct.pack(f"<{len(tokens)}H", *tokens))


def nibble_losses(program, folder, tokens, recipe):
    write_shard(f"{folder}/train_0.bin", tokens)
    run = f"{folder}/{recipe}"
    command = [program, "train", "--from", f"{folder}/start"]
    settings = {"model": f"{folder}/start", "recipe": recipe, "out": run, "steps": STEPS, "seq": SEQ, "micro_batch": BATCH,
                "data": {"train": f"{folder}/train_0.bin", "end_of_text": "none"}, "optimizer": {"lr": RATE},
                "schedule": {"kind": "constant", "warmup": 0}, "lens": {"every": 0}, "peak_flops": "none", "print_every": STEPS}
    with open(f"{folder}/{recipe}.yaml", "w") as f:
        json.dump(settings, f)
    command.insert(2, f"{folder}/{recipe}.yaml")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"nibble train: {done.stderr}")
    with open(f"{run}/metrics.jsonl") as f:
        rows = [json.loads(line) for line in f]
    return [row["loss"] for row in rows if "step" in row and "loss" in row and "lr" in row][:STEPS]


def torch_losses(model, tokens, device="cpu"):
    """AdamW, clipping and data as nibble has them: every step sees every sequence."""
    decayed = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if not (p.dim() == 2 and "embed" not in n)]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=RATE,
                                  betas=(0.9, 0.95), eps=1e-8)
    rows = torch.tensor([tokens[i * SEQ: i * SEQ + SEQ + 1] for i in range(BATCH)], device=device)
    losses = []
    for _ in range(STEPS):
        logits = model(input_ids=rows[:, :-1]).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def twins(program):
    tokens = tokens_of(BATCH * SEQ + 1)
    good = True
    with tempfile.TemporaryDirectory() as folder:
        start = llama()
        start.save_pretrained(f"{folder}/start")
        print("| recipe | first loss, nibble / apply | last loss | largest difference of a step | of the means | bound |")
        for recipe in ["bf16", "nvfp4", "chon", "tetrajet-v2", "fp4-dge-occ"]:
            ours = nibble_losses(program, folder, tokens, recipe)
            model = nibble.torch.apply(copy.deepcopy(start), recipe, steps=STEPS, seed=1)
            theirs = torch_losses(model, tokens)
            assert len(ours) == len(theirs) == STEPS, f"{len(ours)} losses of nibble train"
            most = max(abs(a - b) / a for a, b in zip(ours, theirs))
            mean = abs(sum(ours) - sum(theirs)) / sum(ours)
            ok = most <= BOUND and mean <= MEAN_BOUND
            good &= ok
            print(f"| {recipe} | {ours[0]:.4f} / {theirs[0]:.4f} | {ours[-1]:.4f} / {theirs[-1]:.4f} | {100 * most:.2f} % | "
                  f"{100 * mean:.2f} % | {100 * BOUND:g} % and {100 * MEAN_BOUND:g} % |{'' if ok else ' **beyond**'}", flush=True)
    return good


def trained_on(device, start, recipe, tokens):
    model = nibble.torch.apply(copy.deepcopy(start).to(device), recipe, steps=STEPS, seed=1)
    return torch_losses(model, tokens, device), model


def gpu(*recipes):
    tokens, good = tokens_of(BATCH * SEQ + 1), True
    start = llama()
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}; bound {100 * BOUND:g} % a step, {100 * MEAN_BOUND:g} % of the mean")
    print("| recipe | first loss, CPU / GPU | last loss | largest difference of a step | of the means | GPU again | saved on the GPU, loaded on the CPU |")
    for recipe in recipes or ["bf16", "nvfp4", "chon", "tetrajet-v2", "fp4-dge-occ"]:
        began = [time.monotonic()]
        there, model = trained_on("cuda", start, recipe, tokens)
        began.append(time.monotonic())
        once_more, _ = trained_on("cuda", start, recipe, tokens)
        began.append(time.monotonic())
        print("%s: seconds on the GPU %.1f and %.1f" % (recipe, began[1] - began[0], began[2] - began[1]), file=sys.stderr, flush=True)
        here, _ = trained_on("cpu", start, recipe, tokens)
        print("%s: seconds on the CPU %.1f" % (recipe, time.monotonic() - began[2]), file=sys.stderr, flush=True)
        moved = nibble.torch.apply(copy.deepcopy(start), recipe, steps=STEPS, seed=1)
        moved.load_state_dict({k: v.cpu() for k, v in model.state_dict().items()})
        ids = torch.tensor([tokens[:SEQ]])
        with torch.no_grad():
            a, b = model(input_ids=ids.cuda()).logits.cpu(), moved(input_ids=ids).logits
        close = ((a - b).norm() / b.norm()).item()
        most = max(abs(a - b) / a for a, b in zip(here, there))
        mean = abs(sum(here) - sum(there)) / sum(here)
        ok = most <= BOUND and mean <= MEAN_BOUND and there == once_more and close <= BOUND
        good &= ok
        print(f"| {recipe} | {here[0]:.4f} / {there[0]:.4f} | {here[-1]:.4f} / {there[-1]:.4f} | {100 * most:.2f} % | {100 * mean:.2f} % | "
              f"{'the same losses' if there == once_more else 'other losses'} | logits differ by {100 * close:.2f} % |{'' if ok else ' **beyond**'}",
              flush=True)
    return good


def vit():
    import transformers
    return transformers.ViTForImageClassification(transformers.ViTConfig(
        hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256, image_size=32, patch_size=8,
        num_labels=10))


def t5():
    import transformers
    return transformers.T5ForConditionalGeneration(transformers.T5Config(
        vocab_size=128, d_model=128, d_kv=32, d_ff=256, num_layers=3, num_heads=4, dropout_rate=0.0,
        decoder_start_token_id=0, pad_token_id=0))


def train(model, inputs, steps):
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(steps):
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def kinds(folder):
    generator = torch.Generator().manual_seed(3)
    images = {"pixel_values": torch.randn((13, 3, 32, 32), generator=generator), "labels": torch.arange(13) % 10}
    texts = {"input_ids": torch.randint(1, 128, (6, 21), generator=generator),
             "labels": torch.randint(1, 128, (6, 17), generator=generator)}
    good = True
    print("| recipe | ViT: first loss, last of 30 | T5 |")
    for name in sorted(f[:-5] for f in os.listdir(folder) if f.endswith(".yaml")):
        if "qramping:" in str(nibble.Recipe(name)):  # its optimizer is nibble's alone
            continue
        cells = []
        for make, inputs, keep in [(vit, images, ["classifier"]), (t5, texts, [])]:
            torch.manual_seed(1)
            model = nibble.torch.apply(make(), name, keep=keep, steps=30)
            model.train()
            losses = train(model, inputs, 30)
            ok = all(math.isfinite(x) for x in losses) and losses[-1] < 0.7 * losses[0]
            good &= ok
            cells.append(f"{losses[0]:.3f}, {losses[-1]:.3f}{'' if ok else ' **does not learn**'}")
        print(f"| {name} | {cells[0]} | {cells[1]} |", flush=True)
    return good


def small(recipe, dtype=torch.float32, steps=20):
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 128)).to(dtype)
    return nibble.torch.apply(model, recipe, steps=steps)


def step_of(model, optimizer, x, parts=1):
    optimizer.zero_grad()
    for part in x.chunk(parts):
        (model(part).float().square().mean() / parts).backward()
    optimizer.step()


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))


def ways():
    good = True

    def check(what, ok):
        nonlocal good
        good &= bool(ok)
        print(f"| {what} | {'yes' if ok else '**no**'} |")

    x = torch.randn((96, 256), generator=torch.Generator().manual_seed(8))
    for recipe in ["nvfp4", "chon-hcp-only", "tetrajet-v2"]:
        a = small(recipe)
        oa = torch.optim.SGD(a.parameters(), lr=0.1)
        for _ in range(5):
            step_of(a, oa, x, parts=2)
        b = copy.deepcopy(a)
        c = small(recipe)
        c.load_state_dict(a.state_dict())
        ob, oc = torch.optim.SGD(b.parameters(), lr=0.1), torch.optim.SGD(c.parameters(), lr=0.1)
        for _ in range(8):
            step_of(a, oa, x, parts=2)
            step_of(b, ob, x, parts=2)
            step_of(c, oc, x, parts=2)
        check(f"{recipe}: a deep copy trains on to the same bits", same(a, b))
        check(f"{recipe}: a loaded state dict trains on to the same bits", same(a, c))
        d, e = small(recipe), small(recipe)
        y = d(x)
        d(x.flip(0))          # another pass between
        with torch.no_grad():
            d(x[:7])          # and an evaluation, of few rows
        y.sum().backward()
        e(x).sum().backward()
        check(f"{recipe}: other passes between forward and backward change no gradient",
              torch.equal(d[0].weight.grad, e[0].weight.grad))
        with torch.autocast("cpu", torch.bfloat16):
            f = small(recipe)
            out = f(x)
        check(f"{recipe}: autocast gives BF16", out.dtype == torch.bfloat16 and out.isfinite().all())
        if recipe == "tetrajet-v2":  # OsciReset moves FP32 masters alone, and says so
            continue
        g = small(recipe, torch.bfloat16)
        og = torch.optim.SGD(g.parameters(), lr=0.1)
        step_of(g, og, x.bfloat16())
        check(f"{recipe}: parameters in BF16 train", all(p.grad.dtype == torch.bfloat16 for p in g.parameters()))
    for what, refused in [("tensors of other devices (here: meta)", lambda: small("nvfp4")(x.to("meta"))),
                          ("sizes that no block divides", lambda: nibble.torch.apply(nn.Sequential(nn.Linear(20, 30)), "nvfp4")),
                          ("a model without linear layers", lambda: nibble.torch.apply(nn.Sequential(nn.ReLU()), "nvfp4"))]:
        try:
            refused()
            check(f"{what}: refused", False)
        except (nibble.Error, NotImplementedError) as error:
            check(f"{what}: refused in one line: {error}", "\n" not in str(error))
    return good


# ---- fake quantization in tensor operations, as people write it ----

def fake(x):
    """NVFP4, 1x16, to the nearest: decoded numbers."""
    blocks = x.reshape(-1, 16)
    outer = x.abs().amax() / 2688
    scale = (blocks.abs().amax(-1, keepdim=True) / 6 / outer).to(torch.float8_e4m3fn).float() * outer
    y = blocks / scale.clamp(min=1e-30)
    a = y.abs().clamp(max=6)
    step = torch.where(a < 2, 0.5, torch.where(a < 4, 1.0, 2.0))
    return (torch.sign(y) * torch.round(a / step) * step * scale).reshape(x.shape)


class Emulated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return fake(x) @ fake(w).T

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        return fake(dy) @ fake(w.T.contiguous()).T, fake(dy.T.contiguous()) @ fake(x.T.contiguous()).T


class EmulatedLinear(nn.Linear):
    def forward(self, x):
        return Emulated.apply(x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


def emulate(model):
    for module in list(model.modules()):
        for key, child in module.named_children():
            if type(child) is nn.Linear and key != "lm_head":
                made = EmulatedLinear(child.in_features, child.out_features, bias=False)
                made.weight = child.weight
                setattr(module, key, made)
    return model


def speed(device="cpu"):
    import transformers
    on_gpu = device != "cpu"
    config = dict(vocab_size=4096, num_attention_heads=8, num_key_value_heads=8, tie_word_embeddings=True,
                  max_position_embeddings=512)
    by = torch.cuda.get_device_name(device) if on_gpu else f"{torch.get_num_threads()} threads"
    batch = 32 if on_gpu else 4
    print(f"torch {torch.__version__}, {by}, {batch} sequences of 256; the median of the rounds, in turns")
    print("| model | torch FP32, tok/s | emulated in eager torch | nibble.torch nvfp4 | over the emulation | over FP32 |")
    for hidden, layers, inner in [(256, 6, 768), (512, 8, 1536), (1024, 6, 2816)]:
        torch.manual_seed(0)
        base = transformers.LlamaForCausalLM(transformers.LlamaConfig(
            hidden_size=hidden, num_hidden_layers=layers, intermediate_size=inner, **config)).to(device)
        models = {"fp32": copy.deepcopy(base), "emulated": emulate(copy.deepcopy(base)),
                  "nibble": nibble.torch.apply(copy.deepcopy(base), "nvfp4", keep=["lm_head"], steps=100)}
        ids = torch.randint(0, 4096, (batch, 256), device=device)
        optimizers = {k: torch.optim.AdamW(m.parameters(), lr=1e-4) for k, m in models.items()}
        seconds = {k: [] for k in models}
        for turn in range(6):
            for name, model in models.items():
                started = time.perf_counter()
                optimizers[name].zero_grad()
                model(input_ids=ids, labels=ids).loss.backward()
                optimizers[name].step()
                if on_gpu:
                    torch.cuda.synchronize()
                if turn:
                    seconds[name].append(time.perf_counter() - started)
        rate = {k: ids.numel() / sorted(v)[len(v) // 2] for k, v in seconds.items()}
        size = sum(p.numel() for p in base.parameters()) / 1e6
        print(f"| LLaMA of {size:.0f}M ({layers} x {hidden}) | {rate['fp32']:.0f} | {rate['emulated']:.0f} | {rate['nibble']:.0f} | "
              f"{rate['nibble'] / rate['emulated']:.1f}x | {rate['nibble'] / rate['fp32']:.2f}x |", flush=True)
    return True


if __name__ == "__main__":
    what = {"twins": twins, "kinds": kinds, "ways": ways, "speed": speed, "gpu": gpu}.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if not what:
        sys.exit(__doc__)
    sys.exit(0 if what(*sys.argv[2:]) else 1)
