#!/usr/bin/env python3
"""Books in the public domain as one text to train on and one to validate on, the same bytes everywhere: those of the ledger's rows on GPUs.

    books.py REPOSITORY FOLDER [PARTS]

REPOSITORY is a clone of github.com/rcdm-uga/Gutenberg_Text (commit a0b16d3; of that commit the bytes are known). Its licence texts are cut off,
lines of a paragraph joined, what is short, not English or there twice is left out, and the rest shuffled by a fixed seed. FOLDER gets
train.txt, 622 books of 205 MB, and val.txt, 14 others of 4.5 MB; NUL stands between books. Takes three minutes and 1.4 GB. With PARTS (2 to 5)
there are train-2.txt, train-3.txt ... besides, each 205 MB of books that no other part has.
"""

import hashlib
import os
import random
import re
import subprocess
import sys

TRAIN_BYTES, VAL_BYTES, SET_ASIDE = 204_800_000, 4_000_000, 4_000_000
SEED = 1729
HEAD, TAIL = 6000, 30000  # where the licence's first and last words are looked for
COMMON = set("the of and to a in that he was his it i with for as had you not be her is but at on she".split())
BEGIN = re.compile(r"\*\*\* ?START OF.*?\*\*\*", re.S)
END = re.compile(r"\*\*\* ?END OF|End of (the )?Project Gutenberg|END OF THE PROJECT GUTENBERG", re.I)
CREDITS = re.compile(
    r"(?im)^.*(project gutenberg|gutenberg-tm|produced by|e-text prepared|transcribed from|transcriber's note|distributed proofread).*$"
)


def texts_of(repository):
    """Every text file of the newest commit, in the order of its tree."""
    tree = subprocess.run(["git", "-C", repository, "ls-tree", "-r", "-z", "HEAD"], check=True, capture_output=True).stdout
    entries = [entry.split(b"\t", 1) for entry in tree.split(b"\0") if entry]
    names = [meta.split()[2] for meta, path in entries if path.endswith(b".txt")]
    git = subprocess.Popen(["git", "-C", repository, "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for name in names:
        git.stdin.write(name + b"\n")
        git.stdin.flush()
        head = git.stdout.readline().split()
        if head[1] == b"missing":
            continue
        body = git.stdout.read(int(head[2]))
        git.stdout.read(1)
        yield body
    git.stdin.close()
    git.wait()


def decoded(body):
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = body.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")


def without_licence(text):
    begin = BEGIN.search(text[:HEAD])
    if begin:
        text = text[begin.end() :]
    end = END.search(text, max(0, len(text) - TAIL))
    if end:
        text = text[: end.start()]
    text = CREDITS.sub("", text)
    text = re.sub(r"\n[ \t]+\n", "\n\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def joined(paragraph):
    """A paragraph that was wrapped becomes one line; verse and tables stay."""
    lines = paragraph.split("\n")
    wrapped = len(lines) > 1 and sum(map(len, lines[:-1])) / (len(lines) - 1) > 50 and not paragraph.startswith(" ")
    return " ".join(line.strip() for line in lines) if wrapped else paragraph


def is_english(text):
    words = re.findall(r"[a-z']+", text[2000:60000].lower())
    return bool(words) and sum(word in COMMON for word in words) / len(words) >= 0.25


def books_of(repository):
    seen = set()
    for body in texts_of(repository):
        text = "\n\n".join(map(joined, without_licence(decoded(body)).split("\n\n")))
        if len(text) < 2000 or not is_english(text):
            continue
        key = hashlib.md5(re.sub(r"\W", "", text[5000:9000].lower()).encode()).digest()
        if key not in seen:
            seen.add(key)
            yield text


def take(books, least):
    """Books from the end of the list until they are `least` bytes long."""
    taken, size = [], 0
    while books and size < least:
        taken.append(books.pop().encode())
        size += len(taken[-1])
    return taken


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__.strip())
    repository, folder = sys.argv[1:3]
    parts = int(sys.argv[3]) if len(sys.argv) == 4 else 1
    books = list(books_of(repository))
    random.Random(SEED).shuffle(books)
    take(books, SET_ASIDE)  # kept for tests that nobody has trained on
    os.makedirs(folder, exist_ok=True)
    more = [(f"train-{part}.txt", TRAIN_BYTES) for part in range(2, parts + 1)]
    for name, least in [("val.txt", VAL_BYTES), ("train.txt", TRAIN_BYTES)] + more:
        taken = take(books, least)
        with open(os.path.join(folder, name), "wb") as file:
            file.writelines(book + b"\n\0\n" for book in taken)
        print(f"{name}: {len(taken)} books, {os.path.getsize(file.name) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
