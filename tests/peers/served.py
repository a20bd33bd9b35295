#!/usr/bin/env python3
"""Lets the readers of other makers decode nibble's exports and run them.

    served.py decode FOLDER             what build/test_serve FOLDER wrote: their numbers' digests, to stdout
    served.py models FOLDER NIBBLE LOGITS RECIPES   FOLDER/run-NAME and their exports: tensors, logits and greedy text

Both print rows for the table in docs/ledger.md to standard error, and fail where a row is beyond its limit.
"""
import json
import os
import re
import subprocess
import sys

import engines
import gguf
import numpy as np
import torch
import xxhash
from safetensors import safe_open

rows = []
good = True


def row(reader, version, what, difference, limit):
    global good
    ok = difference <= limit
    good &= ok
    rows.append(f"| {reader} {version} | {what} | {difference:.3g} | {limit:.3g} |{'' if ok else ' **beyond**'}")


def tensors_of(folder):
    with safe_open(f"{folder}/model.safetensors", "pt") as f:
        return {name: f.get_tensor(name) for name in f.keys()}


def modules_of(tensors, ending):
    return [name[: -len(ending)] for name in tensors if name.endswith(ending)]


# ---- each reader's own dequantization ----


def decode_compressed_tensors(folder):
    import compressed_tensors
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    with open(f"{folder}/config.json") as f:
        config = QuantizationConfig.model_validate(json.load(f)["quantization_config"])
    scheme = list(config.config_groups.values())[0]
    compressor = BaseCompressor.get_value_from_registry(scheme.format or config.format)
    tensors = tensors_of(folder)
    for module in modules_of(tensors, ".weight_packed"):
        state = {n.rsplit(".", 1)[1]: t for n, t in tensors.items() if n.rsplit(".", 1)[0] == module}
        yield module, compressor.decompress(state, scheme)["weight"]


def decode_modelopt(folder):
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

    tensors = tensors_of(folder)
    for module in modules_of(tensors, ".weight_scale_2"):
        packed = tensors[module + ".weight"]
        shape = torch.Size([packed.shape[0], packed.shape[1] * 2])
        quantized = NVFP4QTensor(shape, torch.float32, packed)
        yield module, quantized.dequantize(dtype=torch.float32, scale=tensors[module + ".weight_scale"],
                                           double_scale=tensors[module + ".weight_scale_2"], block_sizes={-1: 16})


GGUF_NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
              "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
              "ffn_down": "mlp.down_proj"}


def decode_gguf(path):
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.tensor_type not in (gguf.GGMLQuantizationType.NVFP4, gguf.GGMLQuantizationType.MXFP4):
            continue
        block, name = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor.name).groups()
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        yield f"model.layers.{block}.{GGUF_NAMES[name]}", torch.from_numpy(numbers)


def digest(numbers):
    plain = (numbers + 0.0).contiguous()  # -0 becomes 0
    bits = plain.view(torch.int16 if plain.dtype == torch.bfloat16 else torch.int32)
    return xxhash.xxh128_hexdigest(bits.numpy().tobytes())


def other_keys(folder):
    from modelopt.torch.export.convert_hf_config import convert_hf_quant_config_format

    def plain(value):
        """Without keys of no value."""
        return {k: plain(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    with open(f"{folder}/config.json") as f, open(f"{folder}/hf_quant_config.json") as g:
        ours, theirs = plain(json.load(f)["quantization_config"]), plain(convert_hf_quant_config_format(json.load(g)))
    return sum(ours.get(k) != theirs.get(k) for k in ours.keys() | theirs.keys())


def decode(folder):
    versions = {"compressed-tensors": engines.version("compressed-tensors"), "modelopt": engines.version("nvidia-modelopt"),
                "gguf": engines.version("gguf")}
    programs = {"vLLM " + engines.version("vllm"): engines.vllm(), "SGLang " + engines.version("sglang"): engines.sglang()}
    with open(f"{folder}/ours.txt") as f:
        ours = f.read().splitlines()
    theirs = []
    for name in ("llama", "qwen3", "olmo2"):
        for reader, ending, read in (("compressed-tensors", "safetensors", decode_compressed_tensors),
                                     ("modelopt", "safetensors", decode_modelopt), ("gguf", "gguf", decode_gguf)):
            path = f"{folder}/{name}/{reader}"
            if not os.path.isdir(path):
                continue
            with open(f"{path}/model.{ending}", "rb") as f:
                theirs.append(f"{name} {reader} file {xxhash.xxh128_hexdigest(f.read())}")
            found = {m.removeprefix("model."): digest(w)
                     for m, w in read(f"{path}/model.gguf" if reader == "gguf" else path)}
            wanted = [line.split() for line in ours if line.startswith(f"{name} {reader} layers.")]
            theirs += [f"{name} {reader} {w[2]} {found.get(w[2], 'missing')}" for w in wanted]
            other = sum(found.get(w[2]) != w[3] for w in wanted)
            row(reader, versions[reader], f"{name}: {len(wanted)} layers decoded by it, of other bits than ours", other, 0)
            for program in programs if name != "olmo2" and reader != "gguf" else ():  # olmo2 is MXFP4
                found = {m.removeprefix("model."): digest(w)
                         for m, w in engines.decode(programs[program], reader, tensors_of(path))}
                other = sum(found.get(w[2]) != w[3] for w in wanted)
                row(*program.split(), f"{name}, {reader}: {len(wanted)} layers decoded by it, of other bits than ours", other, 0)
        if os.path.isdir(f"{folder}/{name}/modelopt"):
            row("modelopt", versions["modelopt"], f"{name}: keys of config.json that its own conversion of hf_quant_config.json "
                "gives other values", other_keys(f"{folder}/{name}/modelopt"), 0)
    other, count = engines.transformer_engine()
    row("TransformerEngine", engines.version("transformer-engine"),
        f"its reference quantizer: of {count} bytes of codes, scales and amax, other than our golden file's", other, 0)
    print("\n".join(theirs))
    global good
    good &= theirs == ours


# ---- whole models ----


def relative(got, want):
    return float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want.astype(np.float64)))


def our_logits(program, recipes, checkpoint, recipe, ids):
    out = subprocess.run([program, checkpoint, recipes, recipe, *map(str, ids)], check=True, stdout=subprocess.PIPE)
    return np.frombuffer(out.stdout, np.float32).reshape(len(ids), -1)


def our_text(nibble, checkpoint, recipe, prompt, count):
    out = subprocess.run([nibble, "generate", checkpoint, "--recipe", recipe, "--prompt", prompt, "--temperature", "0",
                          "--tokens", str(count)], check=True, stdout=subprocess.PIPE)
    return out.stdout.decode().rstrip("\n")


def show(who, text):
    print(f"  {who:<22} {text!r}")


PROMPT, COUNT = "What a reader", 48


def run_transformers(folder, program, nibble, recipes, name, recipe):
    import transformers

    path, run = f"{folder}/{name}-ct", f"{folder}/run-{name}"
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    ids = tokenizer(PROMPT + " makes of the codes of a layer.", return_tensors="pt").input_ids
    logits = model(ids).logits[0].float().detach().numpy()
    checkpoint = newest(run)
    ours = our_logits(program, recipes, checkpoint, recipe, ids[0].tolist())
    row("transformers", transformers.__version__, f"{name}: logits of the compressed-tensors folder, in BF16",
        relative(logits, ours), 12 * 2**-8)
    start = tokenizer(PROMPT, return_tensors="pt").input_ids
    out = model.generate(start, max_new_tokens=COUNT, do_sample=False)
    text, mine = tokenizer.decode(out[0], skip_special_tokens=True), our_text(nibble, run, recipe, PROMPT, COUNT)
    show("transformers", text)
    return mine


def newest(run):
    return sorted(os.path.join(run, "checkpoints", c) for c in os.listdir(f"{run}/checkpoints"))[-1]


def run_llama_cpp(folder, program, recipes, name, kind, recipe, limit):
    import llama_cpp

    llama = llama_cpp.Llama(f"{folder}/{name}{kind}.gguf", n_ctx=128, n_threads=2, verbose=False, logits_all=True)
    ids = llama.tokenize((PROMPT + " makes of the codes of a layer.").encode(), add_bos=True, special=False)
    llama.eval(ids)
    logits = np.array(llama.scores[: len(ids)], dtype=np.float32)
    ours = our_logits(program, recipes, newest(f"{folder}/run-{name}"), recipe, ids)
    row("llama.cpp of llama-cpp-python", llama_cpp.__version__, f"{name}: logits of {name}{kind}.gguf",
        relative(logits, ours), limit)
    llama.reset()
    text, start = b"", llama.tokenize(PROMPT.encode(), add_bos=True, special=False)
    for count, token in enumerate(llama.generate(start, temp=0.0, top_k=1, repeat_penalty=1.0)):
        if count == COUNT or token == llama.token_eos():
            break
        text += llama.detokenize([token], prev_tokens=start)
    show(f"llama.cpp {kind or '.nvfp4'}", PROMPT + text.decode(errors="replace"))


def check_tokens(folder, nibble, name):
    """llama.cpp's ids beside those of transformers."""
    import llama_cpp
    import transformers

    with open(f"{folder}/pages.txt", encoding="utf-8") as f:
        text = f.read(50000) + "\n  two  spaces, 12345, \u00e9\u4e2d\U0001f600\t\n\n"
    llama = llama_cpp.Llama(f"{folder}/{name}.gguf", n_ctx=64, verbose=False, vocab_only=True)
    a = llama.tokenize(text.encode(), add_bos=True, special=True)
    b = transformers.AutoTokenizer.from_pretrained(f"{folder}/{name}-ct")(text).input_ids
    other = sum(x != y for x, y in zip(a, b)) + abs(len(a) - len(b))
    row("llama.cpp of llama-cpp-python", llama_cpp.__version__, f"{name}: of {len(b)} tokens, other than transformers'",
        other, 0)


def check_lm_eval(folder, nibble, name, recipe):
    """lm-evaluation-harness on the compressed-tensors folder beside `nibble eval`: bits for each byte of texts.jsonl."""
    import lm_eval
    import transformers
    from lm_eval.tasks import TaskManager

    examples = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../examples")
    with open(f"{folder}/texts.jsonl", encoding="utf-8") as f:
        text = json.loads(f.read())["text"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(f"{folder}/{name}-ct")
    ids = [tokenizer.eos_token_id] + tokenizer(text, add_special_tokens=False).input_ids
    np.array(ids, np.uint16).tofile(f"{folder}/stream.bin")
    out = subprocess.run([nibble, "eval", f"{folder}/run-{name}", "--data", f"uint16:{folder}/stream.bin", "--recipe", recipe,
                          "--sequences", "0", "--json"], check=True, stdout=subprocess.PIPE)
    ours = json.loads(out.stdout)["loss"] * (len(ids) - 1) / len(text.encode()) / np.log(2)
    tasks = TaskManager(include_path=examples, include_defaults=False)
    found = lm_eval.simple_evaluate(
        model="hf", model_args=f"pretrained={folder}/{name}-ct,dtype=bfloat16,max_length=128,add_bos_token=False",
        tasks=["continuation"], task_manager=tasks, device="cpu", batch_size=16, bootstrap_iters=0)
    theirs = found["results"]["continuation"]["bits_per_byte,none"]
    row("lm_eval", lm_eval.__version__, f"{name}: bits for each of {len(text.encode())} bytes, {theirs:.4f}, beside nibble eval's "
        f"{ours:.4f}, relative", abs(theirs - ours) / ours, 2**-8)


PATTERNS = {
    "gpt-2": None,
    "llama 3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "qwen": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
}


def check_byte_pairs(folder, nibble):
    """A tokenizer.json of each kind, trained here: llama.cpp's ids from our GGUF beside those of tokenizers."""
    import llama_cpp
    import tokenizers
    from tokenizers import decoders, models as kinds, pre_tokenizers, trainers

    subprocess.run([nibble, "export", f"{folder}/run-qwen3", "--to", "hf", "-o", f"{folder}/pairs"], check=True,
                   stdout=subprocess.DEVNULL)
    for name in os.listdir(f"{folder}/pairs"):
        if name.startswith("tokenizer"):
            os.remove(f"{folder}/pairs/{name}")
    with open(f"{folder}/pages.txt", encoding="utf-8") as f:
        text = f.read(50000) + "\n  two  spaces, it's 12345 I'LL\u00e9\u4e2d\U0001f600\t\n\n x\r\n"
    for name, pattern in PATTERNS.items():
        made = tokenizers.Tokenizer(kinds.BPE())
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
        split = pattern and pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence([split, level]) if pattern else level
        made.decoder = decoders.ByteLevel()
        made.train([f"{folder}/pages.txt"], trainers.BpeTrainer(
            vocab_size=512, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|end|>"],
            show_progress=False))
        made.save(f"{folder}/pairs/tokenizer.json")
        out = f"{folder}/pairs-{name.split()[0]}.gguf"
        subprocess.run([nibble, "export", f"{folder}/pairs", "--to", "gguf", "--recipe", "bf16", "-o", out], check=True,
                       stdout=subprocess.DEVNULL)
        llama = llama_cpp.Llama(out, n_ctx=64, verbose=False, vocab_only=True)
        a, b = llama.tokenize(text.encode(), add_bos=False, special=True), made.encode(text).ids
        other = sum(x != y for x, y in zip(a, b)) + abs(len(a) - len(b))
        row("llama.cpp of llama-cpp-python", llama_cpp.__version__,
            f"tokenizer.json cut as {name}: of {len(b)} tokens, other than tokenizers {tokenizers.__version__}", other, 0)


def llama_version():
    import llama_cpp

    return f"llama-cpp-python {llama_cpp.__version__}"


def check_converter(folder, name):
    """llama.cpp's own converter over our compressed-tensors folder gives the tensors of our GGUF file."""
    theirs = f"{folder}/{name}-ct.converted.gguf"
    if not os.path.exists(theirs):
        return
    a = {t.name: t for t in gguf.GGUFReader(f"{folder}/{name}.gguf").tensors}
    b = {t.name: t for t in gguf.GGUFReader(theirs).tensors}
    wrong, far, turns = 0, 0.0, None
    for key, tensor in b.items():
        if key not in a or a[key].tensor_type != tensor.tensor_type:
            wrong += 1
        elif key.endswith(".scale"):
            far = max(far, relative(a[key].data, tensor.data))
        elif key == "rope_freqs.weight":  # made of the configuration: in FP32 there, in double here
            turns = relative(a[key].data, tensor.data)
        elif tensor.tensor_type == gguf.GGMLQuantizationType.F32:  # vectors: ours are not rounded, the folder's are
            rounded = torch.from_numpy(np.array(a[key].data)).bfloat16().float().numpy()
            wrong += not np.array_equal(rounded, tensor.data)
        else:
            wrong += not np.array_equal(a[key].data, tensor.data)
    row("llama.cpp's converter of", llama_version(), f"{name}: {len(b)} tensors from the compressed-tensors folder, other than ours", wrong, 0)
    row("llama.cpp's converter of", llama_version(), f"{name}: their NAME.scale", far, 2**-22)
    if turns is not None:
        row("llama.cpp's converter of", llama_version(), f"{name}: their rope_freqs", turns, 2**-22)


def models(folder, nibble, program, recipes):
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    weights, mx = f"{folder}/weights.yaml", f"{folder}/weights-mx.yaml"
    for name, recipe in (("llama", weights), ("stretched", weights), ("qwen3", weights), ("olmo2", mx)):
        print(name)
        mine = run_transformers(folder, program, nibble, recipes, name, recipe)
        show("nibble", mine)
        run_llama_cpp(folder, program, recipes, name, "", recipe, 0.05)
        run_llama_cpp(folder, program, recipes, name, "-bf16", "bf16", 12 * 2**-8)
        show("nibble, bf16", our_text(nibble, f"{folder}/run-{name}", "bf16", PROMPT, COUNT))
        check_tokens(folder, nibble, name)
        check_converter(folder, name)
    check_lm_eval(folder, nibble, "qwen3", weights)
    check_byte_pairs(folder, nibble)


if __name__ == "__main__":
    torch.set_num_threads(2)
    {"decode": decode, "models": models}[sys.argv[1]](*sys.argv[2:])
    print("\n".join(rows), file=sys.stderr)
    sys.exit(0 if good else 1)
