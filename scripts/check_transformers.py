#!/usr/bin/env python3
"""Compares nibble's Hugging Face folders and tokenizers with the transformers package.

    scripts/check_transformers.py check [BUILD_DIR]    build/test_files_hf writes folders and nibble's logits,
                                                       transformers loads them and computes its own
    scripts/check_transformers.py continues FOLDER NIBBLE PROMPT...   greedy text of both programs, with no manual step
    scripts/check_transformers.py golden [OUT_DIR]     writes tests/golden/hf: folders as transformers saves them, with
                                                       its logits, which test_files_hf reads back

Needs: pip install torch transformers safetensors numpy sentencepiece protobuf
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

import sentencepiece
import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))


def relative(got, want):
    return ((got - want).double().norm() / want.double().norm()).item()


def check_models(folder):
    print(f"{'folder':<16} {'nibble in':<10} {'transformers in':<16} {'|difference| / |logits|':>24}  limit")
    good = True
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if not os.path.exists(os.path.join(path, "config.json")) or name.startswith("gla-"):  # check_fla.py
            continue
        ours = load_file(os.path.join(path, "nibble-logits.safetensors"))
        # Double against double differs by transformers' norms, which are single; BF16 has a roundoff of 2^-8, and
        # about a dozen roundings follow each other in two blocks.
        for mine, theirs, limit in [("f64", torch.float64, 3e-6), ("bf16", torch.bfloat16, 12 * 2.0 ** -8)]:
            model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=theirs, attn_implementation="eager")
            with torch.no_grad():
                logits = model(input_ids=ours["tokens"].long()).logits.flatten(0, 1)
            error = relative(logits, ours["logits." + mine])
            good &= error <= limit
            print(f"{name:<16} {mine:<10} {str(theirs):<16} {error:>24.3g}  {limit:.3g}{'' if error <= limit else '  FAIL'}")
    return good


TEXTS = ["", "a", "  two  spaces ", "tab\tand\nlines\n\n\n", "the quantizer rounds (see below), 1913", "caf\u00e9 \u20ac \U0001f388", "\n x"]


def check_tokenizers(folder):
    good = True
    for name in ["tokenizer-bytes", "tokenizer-sp"]:
        path = os.path.join(folder, name)
        theirs = transformers.AutoTokenizer.from_pretrained(path)
        ours = load_file(os.path.join(path, "nibble-ids.safetensors"))
        for i, text in enumerate(TEXTS):
            ids, want = theirs.encode(text, add_special_tokens=False), ours[f"ids.{i}"].tolist()
            same, back = ids == want, theirs.decode(want) == text
            good &= same and back
            if not (same and back):
                print(f"{name}: {text!r}: transformers {ids}, nibble {want}, decoded {theirs.decode(want)!r}")
        print(f"{name}: {type(theirs).__name__}, {len(theirs)} tokens, end of text {theirs.eos_token_id}")
    return good


def check(build):
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "texts"), "wb") as out:
            out.write(b"\0".join(t.encode() for t in TEXTS))
        subprocess.run([os.path.join(build, "test_files_hf"), folder], check=True)
        good = check_models(folder)
        good &= check_tokenizers(folder)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}: {'all good' if good else 'FAILED'}")
    return 0 if good else 1


def continuation(folder, prompt, tokens):
    """Greedy text as a user of transformers gets it: the tokenizer opens the text as it sees fit."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(out[0], skip_special_tokens=True)


def continues(folder, nibble, prompts):
    good = True
    for prompt in prompts:
        theirs = continuation(folder, prompt, 40)
        ours = subprocess.run([nibble, "generate", folder, "--recipe", "bf16", "--prompt", prompt, "--tokens", "40",
                               "--temperature", "0"], check=True, capture_output=True, text=True).stdout[:-1]
        good &= ours == theirs
        print(f"{prompt!r}: {'same' if ours == theirs else f'transformers {theirs!r}, nibble {ours!r}'}")
    return 0 if good else 1


def golden_text(out):
    """A model whose tokenizer opens a text with <s>, another whose tokenizer opens it with nothing; what both write."""
    model_file = os.path.join(HERE, "..", "tests", "fuzz", "corpus", "tokenizer", "small.model")
    pieces = sentencepiece.SentencePieceProcessor(model_file=model_file)
    path = os.path.join(out, "llama-text")
    shutil.rmtree(path, ignore_errors=True)
    config = transformers.LlamaConfig(vocab_size=pieces.vocab_size(), hidden_size=16, num_hidden_layers=1,
                                      num_attention_heads=2, num_key_value_heads=1, intermediate_size=32,
                                      max_position_embeddings=64, tie_word_embeddings=False, bos_token_id=1,
                                      eos_token_id=2, pad_token_id=None)
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for p in model.parameters():
        p.data = float(p.dim() == 1) + (0.5 * torch.randn(p.shape)).to(torch.bfloat16).float()
    model.lm_head.weight.data[:259] = 0  # <unk>, <s>, </s> and the bytes: it writes letters and does not end
    model.to(torch.bfloat16).save_pretrained(path)
    shutil.copy(model_file, os.path.join(path, "tokenizer.model"))
    texts = {}
    for opens in [True, False]:
        with open(os.path.join(path, "tokenizer_config.json"), "w") as f:
            json.dump({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
                       "add_bos_token": opens, "add_eos_token": False, "add_prefix_space": False, "legacy": False}, f)
        for prompt in ["the model", "a", "rounds (see"]:
            texts[(opens, prompt)] = continuation(path, prompt, 12)
    for opens in [True, False]:
        with open(os.path.join(path, "expected-" + ("opened" if opens else "bare") + ".txt"), "w") as f:
            f.write("".join(f"{prompt}\t{text}\n" for (o, prompt), text in texts.items() if o == opens))
    os.remove(os.path.join(path, "tokenizer_config.json"))  # the test writes it
    for extra in ["generation_config.json"]:
        if os.path.exists(os.path.join(path, extra)):
            os.remove(os.path.join(path, extra))
    for name in os.listdir(path):
        os.chmod(os.path.join(path, name), 0o644)
    for key, text in texts.items():
        print(key, repr(text))


def golden(out):
    """Models as transformers saves them: LLaMA in FP32 in several shards, Qwen3 in BF16 in one file, LLaMA with scaled RoPE."""
    common = dict(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                  intermediate_size=32, max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=None,
                  eos_token_id=None, pad_token_id=None, attn_implementation="eager")
    cases = [("llama-sharded", transformers.LlamaConfig(tie_word_embeddings=False, rope_theta=5000.0, **common),
              torch.float32, "8KB"),
             ("qwen3-bf16", transformers.Qwen3Config(tie_word_embeddings=True, head_dim=16, **common),
              torch.bfloat16, "1GB"),
             ("llama-scaled", transformers.LlamaConfig(tie_word_embeddings=True, head_dim=32, rope_parameters=dict(
                 rope_type="llama3", rope_theta=20.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                 original_max_position_embeddings=32), **common), torch.bfloat16, "1GB")]
    for name, config, dtype, shard in cases:
        path = os.path.join(out, name)
        shutil.rmtree(path, ignore_errors=True)
        torch.manual_seed(3)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for p in model.parameters():
            p.data = (float(p.dim() == 1) + 0.25 * torch.randn(p.shape)).to(dtype).to(p.dtype)
        model.to(dtype).save_pretrained(path, max_shard_size=shard)
        tokens = torch.randint(0, 40, (1, 16))
        # read again, for a model that was BF16 once keeps RoPE's frequencies rounded
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64, attn_implementation="eager")
        with torch.no_grad():
            logits = model(input_ids=tokens).logits
        save_file({"tokens": tokens.to(torch.int32), "logits": logits[0].contiguous()},
                  os.path.join(path, "expected.safetensors"))
        for extra in ["generation_config.json"]:
            if os.path.exists(os.path.join(path, extra)):
                os.remove(os.path.join(path, extra))
        for file in sorted(os.listdir(path)):
            os.chmod(os.path.join(path, file), 0o644)
            print(f"{path}/{file}: {os.path.getsize(os.path.join(path, file))} bytes")
    golden_text(out)
    return 0


if __name__ == "__main__":
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    if what == "check":
        sys.exit(check(sys.argv[2] if len(sys.argv) > 2 else os.path.join(HERE, "..", "build")))
    if what == "continues":
        sys.exit(continues(sys.argv[2], sys.argv[3], sys.argv[4:]))
    if what == "golden":
        sys.exit(golden(sys.argv[2] if len(sys.argv) > 2 else os.path.join(HERE, "..", "tests", "golden", "hf")))
    sys.exit(__doc__)
