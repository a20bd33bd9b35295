#!/usr/bin/env python3
"""strike.py NIBBLE FAULTS SEEN: what scripts/attack asks to be struck, in this folder, one command a line.

Calls of a kind that fail, in order of N, are branches of one process (tests/faults/branches.h), in a folder beside this one:
what came before is not computed again for each. Kills and power cuts have a process each; with BRANCHES=0 all do.

    in:   NAME FAULT WRITES ARGUMENT...   FAULT as tests/faults/faults.c reads it; WRITES: what the command writes, removed first
    out:  STATUS MEMORY KNOWN             MEMORY: `memory` where its words (in `log`) say so, else `-`; KNOWN: `known` where NAME
                                          ended with this status before and left the same, to the bit (SEEN remembers), else `new`

Times of day are not what was left: of an event file only the size counts, of metrics and reports all but their times.
"""
import glob
import hashlib
import os
import re
import select
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
    return re.sub(r"\.tmp-\d+", ".tmp-", re.sub(r"tfevents\.\d+(.*)\.\d+", r"tfevents.\1", path))


digests = {}  # of files that branches have in common


def digest(path):
    st = os.stat(path)
    key = (st.st_dev, st.st_ino, st.st_mtime_ns, st.st_size)
    if st.st_nlink > 1 and key in digests:
        return digests[key]
    with open(path, "rb") as f:
        data = without_times(os.path.basename(path), f.read())
    digests[key] = hashlib.sha256(data).hexdigest()
    return digests[key]


def left(paths):
    """A line for each file and folder below, in order."""
    lines = []
    for path in paths:
        if os.path.isdir(path):
            lines.append(without_process(path))
            lines += left(os.path.join(path, name) for name in os.listdir(path))
        elif os.path.exists(path):
            lines.append(without_process(path) + " " + digest(path))
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


class Trunk:
    """The process whose branches are struck: of one command and one kind of call."""

    def __init__(self, name, kind, writes, command, faults):
        self.of, self.at = (name, kind), 0
        self.folder = os.getcwd() + ".trunk"
        if not os.path.isdir(self.folder):
            shutil.copytree(".", self.folder, ignore=shutil.ignore_patterns("run", "out", "log", "*.tmp-*", "tally", "mine"))
        remove(glob.glob(f"{self.folder}/{writes}") + glob.glob(f"{self.folder}/*.tmp-*"))
        orders, self.orders = os.pipe()
        self.answers, answers = os.pipe()
        branches = f"{orders} {answers} {os.getcwd()} {writes}"
        environment = {**os.environ, "NIBBLE_FAULT_BRANCHES": branches, "LD_PRELOAD": faults}
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdin=null, stdout=null, stderr=null,
                                        pass_fds=(orders, answers))
        os.close(orders)
        os.close(answers)
        self.lines = os.fdopen(self.answers, "rb", buffering=0)

    def strike(self, n, fault):
        """As give; None where the process ends before that call."""
        self.at = n
        try:
            os.write(self.orders, f"{fault}\n".encode())
            if not select.select([self.lines], [], [], SECONDS)[0]:
                self.process.kill() # it hangs before that call: those that follow are processes of their own
            branch = int(self.lines.readline())
        except (BrokenPipeError, ValueError):
            return None
        hangs = not select.select([self.lines], [], [], SECONDS)[0]
        if hangs:
            os.kill(branch, 9)
        status = os.waitstatus_to_exitcode(int(self.lines.readline()))
        return HANGS if hangs else status if status >= 0 else 128 - status

    def end(self):
        os.close(self.orders)
        self.process.kill()
        self.process.wait()
        self.lines.close()


def main(nibble, faults, seen):
    trunk = None
    for line in sys.stdin:
        name, fault, writes, *arguments = line.split()
        remove([writes, *glob.glob("*.tmp-*")])
        kind, n, what = fault.split(":")
        n = int(n.rstrip("+"))
        status = None
        if what.isdigit() and os.environ.get("BRANCHES") != "0":
            if trunk and (trunk.of != (name, kind) or n < trunk.at):
                trunk = trunk.end()
            trunk = trunk or Trunk(name, kind, writes, [nibble, *arguments], faults)
            status = trunk.strike(n, fault)
        if status is None:
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
    if trunk:
        trunk.end()


main(*sys.argv[1:])
