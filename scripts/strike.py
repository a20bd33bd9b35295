#!/usr/bin/env python3
"""strike.py NIBBLE FAULTS SEEN: what scripts/attack asks to be struck, in this folder, one command a line.

    in:   NAME FAULT WRITES ARGUMENT...   FAULT as tests/faults/faults.c reads it; WRITES: what the command writes, removed first
    out:  STATUS MEMORY KNOWN             MEMORY: `memory` where its words (in `log`) say so, else `-`; KNOWN: `known` where NAME
                                          ended with this status before and left the same, to the bit (SEEN remembers), else `new`

Times of day are not what was left: of an event file only the size counts, of metrics and reports all but their times.
"""
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys

SECONDS = 300  # of one command, after which it hangs
HANGS = 124  # the status of one that did, as timeout(1) says it: SIGKILL's own is that of a struck process


def without_times(name, data):
    if name.startswith("events.out"):
        return b"%d" % len(data)
    if name.startswith("metrics.jsonl"):
        return re.sub(rb',"(ms|val_seconds)":.*', b"", data)
    return re.sub(rb'"written": *"[^"]*"', b"", data) if data.startswith(b"<!") else data


def without_process(path):
    return re.sub(r"\.tmp-\d+", ".tmp-", re.sub(r"tfevents\.\d+", "tfevents.", path))


def left(paths):
    """A line for each file and folder below, in order."""
    lines = []
    for path in paths:
        if os.path.isdir(path):
            lines.append(without_process(path))
            lines += left(os.path.join(path, name) for name in os.listdir(path))
        elif os.path.exists(path):
            with open(path, "rb") as f:
                data = without_times(os.path.basename(path), f.read())
            lines.append(without_process(path) + " " + hashlib.sha256(data).hexdigest())
    return sorted(lines)


def remove(paths):
    for path in paths:
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.remove(path)


def give(command, environment):
    """Its exit status as a shell says it; HANGS where SIGKILL had to end it."""
    with open("log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        status = process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return HANGS
    return status if status >= 0 else 128 - status


def main(nibble, faults, seen):
    for line in sys.stdin:
        name, fault, writes, *arguments = line.split()
        remove([writes, *glob.glob("*.tmp-*")])
        status = give([nibble, *arguments], {**os.environ, "NIBBLE_FAULT": fault, "LD_PRELOAD": faults})
        with open("log", "rb") as f:
            memory = b"memory" in f.read().lower()
        state = "\n".join([f"{name} {status}", *left([writes, *glob.glob("*.tmp-*")])])
        try:
            os.mkdir(os.path.join(seen, hashlib.sha256(state.encode()).hexdigest()[:40]))
            known = False
        except FileExistsError:
            known = True
        print(status, "memory" if memory else "-", "known" if known else "new", flush=True)


main(*sys.argv[1:])
