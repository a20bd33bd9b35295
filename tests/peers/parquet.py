#!/usr/bin/env python3
"""Text out of Parquet beside pyarrow: what it reads of a file that it wrote is what `nibble tokenize` makes tokens of.

    parquet.py NIBBLE       the program, with libnibble-parquet.so beside it

Prints rows for docs/ledger.md; fails where a token is another, or where memory grows with a file.
"""
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile

import pyarrow as pa
import pyarrow.parquet as parquet

END = 256  # of the tokenizer "bytes"
LIMIT = 256 << 20  # bytes of memory of the process's own, by RLIMIT_DATA


def tokens(program, path, out, limit=None):
    def set_limit():
        if limit:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    done = subprocess.run([program, "tokenize", path, "-t", "bytes", "--val", "0", "--shard-tokens", "2000000000", "-o", out,
                           "--force", "-q"], capture_output=True, text=True, preexec_fn=set_limit)
    if done.returncode:
        sys.exit(f"{path}: {done.stderr}")
    with open(f"{out}/train_000000.bin", "rb") as f:
        f.seek(1024)
        data = f.read()
    return struct.unpack(f"<{len(data) // 2}H", data) if not limit else len(data) // 2


def a_text(draw):
    kinds = ["abc xyz\n\t\"\\", "äöüßéñ ", "漢字かな ", "\U0001f600\U00010348 ", "".join(map(chr, range(32, 127)))]
    return "".join(draw.choice(draw.choice(kinds)) for _ in range(draw.choice([0, 1, 3, 40, 400])))


def a_table(draw, path):
    """One file, its options drawn."""
    rows = draw.choice([1, 2, 63, 700, 3000])
    empty = draw.choice([0, 0, 0.1, 0.9])
    few = [a_text(draw) for _ in range(5)]
    texts = [None if draw.random() < empty else draw.choice(few) if draw.random() < 0.3 else a_text(draw) for _ in range(rows)]
    if not any(texts):
        texts[0] = "one at least"
    kind = draw.choice([pa.string(), pa.large_string(), pa.binary(), pa.string_view()])
    column = pa.array([t.encode() if t is not None else None for t in texts], pa.binary()).cast(kind)
    if draw.random() < 0.2 and kind == pa.string():
        column = column.dictionary_encode()
    encoding = draw.choice(["dictionary", "PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
    how = {"use_dictionary": True} if encoding == "dictionary" or pa.types.is_dictionary(column.type) else {
        "use_dictionary": False, "column_encoding": {"text": encoding, "id": "PLAIN"}}
    fields = [pa.field("id", pa.int32()), pa.field("text", column.type, nullable=None in texts)]
    parquet.write_table(pa.table([pa.array(range(rows), pa.int32()), column], pa.schema(fields)), path,
                        compression=draw.choice(["none", "snappy", "gzip", "zstd", "lz4", "brotli"]),
                        data_page_version=draw.choice(["1.0", "2.0"]), row_group_size=draw.choice([1, 17, 500, 100000]) if rows < 700
                        else draw.choice([500, 100000]), data_page_size=draw.choice([64, 4096, 1 << 20]),
                        write_page_checksum=draw.random() < 0.5, store_schema=draw.random() < 0.5, **how)


def compare(program, folder, files):
    draw, count, rows = random.Random(22), 0, 0
    for i in range(files):
        path = f"{folder}/{i}.parquet"
        a_table(draw, path)
        want = []
        for text in parquet.read_table(path, columns=["text"]).column("text").to_pylist():
            rows += 1
            if text:
                want += list(text.encode() if isinstance(text, str) else text) + [END]
        got = tokens(program, path, f"{folder}/out")
        if list(got) != want:
            sys.exit(f"{path}: other tokens than pyarrow's texts")
        count += len(want)
        os.remove(path)
    print(f"| pyarrow {pa.__version__} | {files} files of {rows:,} rows drawn over encodings, compressions, pages, types, rows without "
          f"a value: of {count:,} tokens of `nibble tokenize` other than its texts' bytes | 0 | 0 |")


def stream(program, folder):
    """A row group far larger than the memory that the process may have of its own."""
    path, part = f"{folder}/large.parquet", 1 << 16
    text = "".join(random.Random(5).choices("abcdefgh ", k=part))
    rows = 3 * LIMIT // (2 * part)
    column = pa.array([text[i % 97:] for i in range(rows)], pa.large_string())
    parquet.write_table(pa.table({"text": column}), path, compression="zstd", use_dictionary=False, row_group_size=rows)
    size = sum(part - i % 97 + 1 for i in range(rows))
    del column
    if tokens(program, path, f"{folder}/out", LIMIT) != size:
        sys.exit("large.parquet: other tokens than were written")
    print(f"| | one row group of {size / 2**20:.0f} MiB of text, read in {LIMIT >> 20} MiB of memory of the process's own (`RLIMIT_DATA`): "
          f"tokens missing | 0 | 0 |")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as place:
        compare(sys.argv[1], place, 120)
        stream(sys.argv[1], place)
