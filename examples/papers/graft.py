#!/usr/bin/env python3
"""Which weights carry the difference of two arms: the loss of run A with parts of run B's weights in their place.

    graft.py RUN_A RUN_B [--backend cuda] [--recipe bf16]

Both runs are of one model and keep their last checkpoint. Rows of embedding and head are taken by how often their token is in the
training text: rare (less than 2 in a million), middle, frequent (20 in a million and more). NIBBLE names the program (build/nibble).
"""
import argparse, collections, array, glob, json, os, re, shutil, struct, subprocess, tempfile

given = argparse.ArgumentParser()
given.add_argument("a")
given.add_argument("b")
given.add_argument("--backend", default="cuda")
given.add_argument("--recipe", default="bf16", help="whose forward pass")
given = given.parse_args()


def newest(run):
    return sorted(glob.glob(run + "/checkpoints/step-*[0-9]"))[-1]


def tensors(folder):
    raw = open(folder + "/model.safetensors", "rb").read()
    begin = 8 + struct.unpack("<Q", raw[:8])[0]
    table = {n: t for n, t in json.loads(raw[8:begin]).items() if n != "__metadata__"}
    return raw, {n: (begin + t["data_offsets"][0], begin + t["data_offsets"][1], t["shape"][0]) for n, t in table.items()}


def of_run(key):
    return re.search(rf'^ *{key}: "?([^"\n]+)', open(given.a + "/run.yaml").read(), re.M).group(1)


def rows_by_frequency(vocab):
    counts, total = collections.Counter(), 0
    for shard in glob.glob(of_run("train")):
        tokens = array.array("H", open(shard, "rb").read()[1024:])  # uint16 behind 256 words of header
        counts.update(tokens)
        total += len(tokens)
    parts = {"rare": [], "middle": [], "frequent": []}
    for row in range(vocab):
        share = counts[row] / total
        parts["rare" if share < 2e-6 else "middle" if share < 2e-5 else "frequent"].append(row)
    return parts


def loss(weights):
    with tempfile.TemporaryDirectory() as folder:
        for name in glob.glob(newest(given.a) + "/tokenizer*"):
            shutil.copy(name, folder)
        config = json.load(open(newest(given.a) + "/config.json"))
        config["max_position_embeddings"] = int(of_run("seq"))  # a folder without its run is evaluated over so many
        json.dump(config, open(folder + "/config.json", "w"))
        open(folder + "/model.safetensors", "wb").write(weights)
        said = subprocess.run([os.environ.get("NIBBLE", "build/nibble"), "eval", folder, "--data", of_run("val"), "--recipe", given.recipe,
                               "--sequences", of_run("sequences"), "--backend", given.backend, "--json"], check=True, capture_output=True)
        return json.loads(said.stdout)["loss"]


a, places = tensors(newest(given.a))
b, others = tensors(newest(given.b))
assert places == others, "two runs of one model are wanted"
whole = {"nothing": "^$", "all": "", "embedding": "embed_tokens", "head": "lm_head", "blocks and norms": "^(?!.*(embed_tokens|lm_head))"}
for label, pattern in whole.items():
    weights = bytearray(a)
    for name, (begin, end, _) in places.items():
        if re.search(pattern, name):
            weights[begin:end] = b[begin:end]
    print(f"{label:32s} {loss(weights):.6f}", flush=True)
for name, (begin, end, vocab) in places.items():
    if not re.search("embed_tokens|lm_head", name):
        continue
    width = (end - begin) // vocab
    for label, rows in rows_by_frequency(vocab).items():
        weights = bytearray(a)
        for row in rows:
            at = begin + row * width
            weights[at:at + width] = b[at:at + width]
        print(f"{name}, {len(rows)} {label} rows".ljust(48), f"{loss(weights):.6f}", flush=True)
