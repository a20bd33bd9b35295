"""What tests/test_python.sh runs: python_checks.py NIBBLE SOURCE_DIR WORK CC."""
import ctypes
import json
import os
import re
import struct
import subprocess
import sys

import nibble
from nibble import _library

NIBBLE, SOURCE, WORK, CC = sys.argv[1:]
ROWS, COLS = 48, 256


def fail(sentence):
    sys.exit(f"FAILED: {sentence}")


# ---- records ----

def records_are_those_of_the_headers():
    lines = []
    for record in _library.RECORDS:
        name = record.__name__
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        lines += [f'printf("{name}.{f[0]} %zu\\n", offsetof({name}, {f[0]}));' for f in record._fields_]
    with open(f"{WORK}/sizes.c", "w") as f:
        f.write("#include <nibble/linear.h>\n#include <stdio.h>\nint main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n")
    subprocess.run([CC, "-std=c11", f"-I{SOURCE}/include", f"{WORK}/sizes.c", "-o", f"{WORK}/sizes"], check=True)
    told = dict(line.rsplit(" ", 1) for line in subprocess.check_output([f"{WORK}/sizes"], text=True).splitlines())
    for record in _library.RECORDS:
        mine = {record.__name__: ctypes.sizeof(record)}
        mine.update({f"{record.__name__}.{f[0]}": getattr(record, f[0]).offset for f in record._fields_})
        for what, size in mine.items():
            if int(told.pop(what)) != size:
                fail(f"{what}: {size} in Python, not so in the headers")


# ---- the bytes of the command ----

def numbers():
    """Normal-ish, with outliers, zeros and tiny numbers."""
    out, state = [], 7
    for i in range(ROWS * COLS):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        x = sum((state >> s & 65535) / 65536 - 0.5 for s in (0, 16, 32, 48))
        out.append(x * (30 if i % 97 == 0 else 1e-6 if i % 53 == 0 else 0 if i % 31 == 0 else 1))
    return struct.pack(f"<{len(out)}f", *out)


def write_npy(path, data):
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({ROWS}, {COLS}), }}"
    head += " " * (63 - (10 + len(head)) % 64) + "\n"
    with open(path, "wb") as f:
        f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + data)


def read_npy(path):
    with open(path, "rb") as f:
        whole = f.read()
    return whole[10 + struct.unpack_from("<H", whole, 8)[0]:]


def read_safetensors(path):
    with open(path, "rb") as f:
        whole = f.read()
    size = struct.unpack_from("<Q", whole)[0]
    head = json.loads(whole[8:8 + size])
    return {k: whole[8 + size + v["data_offsets"][0]:8 + size + v["data_offsets"][1]]
            for k, v in head.items() if k != "__metadata__"}


def operands():
    yield from ["nvfp4", "nvfp4-2d", "nvfp4-outer128", "mxfp4", "mxfp8", "fp4-row", "fp4-tensor"]
    for file in sorted(os.listdir(f"{SOURCE}/recipes")):
        recipe = nibble.Recipe(file[:-5])
        for role in recipe.roles:
            yield str(recipe[role])


def same_bytes_as_the_command():
    data = numbers()
    write_npy(f"{WORK}/in.npy", data)
    x = memoryview(bytearray(data)).cast("f", (ROWS, COLS))
    seen = set()
    for text in operands():
        if text in seen or "bf16" == text or "format: bf16" in text:
            continue
        seen.add(text)
        subprocess.run([NIBBLE, "quantize", f"{WORK}/in.npy", "--as", text, "--seed", "5", "-o", f"{WORK}/out.safetensors",
                        "--dequantized", f"{WORK}/out.npy"], check=True, stdout=subprocess.DEVNULL)
        want = read_safetensors(f"{WORK}/out.safetensors")
        got = nibble.quantize(x, text, seed=5)
        outer = want.get("outer_scales", want.get("row_scales", want.get("column_scales")))
        for name, mine, theirs in [("codes", got.codes, want["codes"]), ("scales", got.scales, want.get("scales")),
                                   ("outer_scales", got.outer_scales, outer),
                                   ("tensor_scale", got.tensor_scale, want.get("tensor_scale"))]:
            if (mine is None) != (theirs is None) or (mine is not None and mine.tobytes() != theirs):
                fail(f"{text}: {name} are not those of nibble quantize")
        if nibble.dequantize(got).tobytes() != read_npy(f"{WORK}/out.npy"):
            fail(f"{text}: decoded numbers are not those of nibble quantize")
        numpy_gives_the_same(data, text, got)
    if len(seen) < 12:
        fail(f"only {len(seen)} operands were tried: {seen}")
    return len(seen)


def numpy_gives_the_same(data, text, want):
    try:
        import numpy
    except ImportError:
        return
    got = nibble.quantize(numpy.frombuffer(data, "<f4").reshape(ROWS, COLS), text, seed=5)
    if got.codes.tobytes() != want.codes.tobytes() or nibble.dequantize(got).tobytes() != nibble.dequantize(want).tobytes():
        fail(f"{text}: numpy gets other codes")


# ---- refusals, recipes ----

def refusals():
    x = memoryview(bytearray(4 * 20 * 4)).cast("f", (4, 20))
    for call, words in [(lambda: nibble.quantize(x, "nvfp4"), "columns do not divide by the block of 16"),
                        (lambda: nibble.quantize(x, "nvfp5"), "nvfp5"),
                        (lambda: nibble.quantize(x, "bf16"), "bf16 is not quantized"),
                        (lambda: nibble.Recipe("chonk"), "chonk"),
                        (lambda: nibble.quantize(bytes(8), "nvfp4"), "expected C-contiguous float32")]:
        try:
            call()
        except (nibble.Error, TypeError) as error:
            if words not in str(error) or "\n" in str(error):
                fail(f"says {error}; expected {words}")
        else:
            fail(f"{words}: was not refused")


def recipes():
    chon = nibble.Recipe("chon")
    if chon.name != "chon" or "paper: arXiv:2602.02047" not in str(chon):
        fail(f"Recipe says {chon}")
    if str(nibble.Recipe("nvfp4")["dgrad.w"]) != str(nibble.Recipe("nvfp4")["fprop.w"]):
        fail("the same codes have another quantizer")
    with open(f"{WORK}/mine.yaml", "w") as f:
        f.write("base: nvfp4\nname: mine\nfprop: {x: {round: up}}\n")
    if "round: up" not in str(nibble.Recipe(f"{WORK}/mine.yaml")["fprop.x"]):
        fail("a recipe file of one's own is not read")


def the_page_runs():
    page = open(f"{SOURCE}/docs/python.md").read()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    plain = [b for b in blocks if "nibble.torch" not in b]
    if not plain:
        fail("docs/python.md shows nothing that runs without packages")
    for block in plain:
        exec(compile(block, "docs/python.md", "exec"), {})


records_are_those_of_the_headers()
count = same_bytes_as_the_command()
refusals()
recipes()
the_page_runs()
print(f"{len(_library.RECORDS)} records as the headers have them, {count} operands with the bytes of nibble quantize")
