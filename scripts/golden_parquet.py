#!/usr/bin/env python3
"""Makes tests/golden/parquet: tables as pyarrow writes them, and the texts in them as JSON lines.

    python3 scripts/golden_parquet.py tests/golden/parquet

Made with pyarrow 26.0.1. All but other.parquet have the texts of texts.jsonl under "text", some with rows without a value
between them: encodings, compressions, pages and types as writers choose them.
"""
import json
import sys

import pyarrow as pa
import pyarrow.parquet as parquet

TEXTS = (["", "one", "ä line\nand another\n", "\U0001f600 and ß", "tab\tand \"quotes\" \\", "one", "one", " ", "x" * 300]
         + [f"row {i} tells that the square of {i} is {i * i}" for i in range(60)] + ["last"])


def holes(texts):
    """Every third text has a row without one before it."""
    return [row for i, text in enumerate(texts) for row in ([None, text] if i % 3 == 0 else [text])]


def write(name, texts, kind=None, nullable=True, **how):
    texts = pa.array(texts, kind or pa.string())
    numbers = pa.array(range(len(texts)), pa.int64())
    fields = [pa.field("id", pa.int64()), pa.field("text", texts.type, nullable)]
    parquet.write_table(pa.table([numbers, texts], pa.schema(fields)), f"{folder}/{name}.parquet", store_schema=False, **how)


def write_other():
    """Columns that are no texts, and one that is."""
    columns = {"id": pa.array([1, 2], pa.int32()), "list": pa.array([["a"], []], pa.list_(pa.string())),
               "parts": pa.array([{"text": "a"}, {"text": "b"}], pa.struct([("text", pa.string())])),
               "pair": pa.array([b"ab", b"cd"], pa.binary(2)), "body": pa.array(["one", "two"], pa.string()),
               "bytes": pa.array([b"\xff\xfe\x00\x01" * 40, b"\x89PNG" * 40], pa.binary())}
    parquet.write_table(pa.table(columns), f"{folder}/other.parquet", store_schema=False, compression="none")


folder = sys.argv[1]
with open(f"{folder}/texts.jsonl", "w") as f:
    f.writelines(json.dumps({"text": text}) + "\n" for text in TEXTS)
write("snappy", holes(TEXTS), row_group_size=30)
write("zstd", TEXTS, nullable=False, compression="zstd", data_page_version="2.0", use_dictionary=False,
      column_encoding={"id": "PLAIN", "text": "DELTA_BYTE_ARRAY"}, data_page_size=512, write_batch_size=8,
      write_page_checksum=True)
write("gzip", holes(TEXTS), compression="gzip", use_dictionary=False, data_page_size=700, write_batch_size=8)
write("lz4", holes(TEXTS), pa.large_string(), compression="lz4", use_dictionary=False,
      column_encoding={"id": "PLAIN", "text": "DELTA_LENGTH_BYTE_ARRAY"}, data_page_version="2.0", row_group_size=50)
write("brotli", TEXTS, compression="brotli", row_group_size=71)
write("bytes", [t.encode() for t in TEXTS], pa.binary(), compression="none", use_dictionary=["text"])
write("empty", [])
write_other()
