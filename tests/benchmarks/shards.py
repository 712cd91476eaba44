"""Texts larger than memory: how fast are shards prepared, and how much memory do preparing and reading take?

`python tests/benchmarks/shards.py` generates 1 GB of text, one document, prepares it with GPT-2's vocabulary in a
process of its own, and reads random batches from the shards in another; `--megabytes 20` tries it in seconds. The text
has the words of the course's texts as often as these have them, and one word in thirty is made up by a trigram model of
letters, so that new words come as they do in a large corpus: the tokenizer finds most words, but not all, in its cache.

Memory is what the operating system counts (Linux: VmRSS and its peak, VmHWM), less what the process held when PyTorch
and the tokenizer were loaded and a first batch or document was done. `RssFile` are pages of files, which it could drop.
The limits that the course sets itself: 64 MB more for each, and 1.5 MB of text per CPU second.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

import gptlib
from gptlib.shards import documents

ROOT = Path(__file__).resolve().parents[2]
LIMIT_MB, LIMIT_SPEED = 64, 1.5
WORDS = 200_000  # of a chunk
NEW = 1 / 30

MEMORY = """
import sys, time

def memory():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {name: int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM", "RssAnon", "RssFile")}

"""
PREPARE = (
    MEMORY
    + """
from pathlib import Path
from gptlib import shards
tokenizer = shards.load_tokenizer("gpt2")
source, folder = Path(sys.argv[1]), Path(sys.argv[2])
small = folder.parent / "small.txt"
with source.open(encoding="utf-8") as file:
    small.write_text(file.read(2**17), encoding="utf-8")
shards.prepare(small, folder.parent / "small", tokenizer, val_fraction=0, progress=False)
before, began = memory(), time.process_time()
manifest = shards.prepare(source, folder, tokenizer, val_fraction=0, progress=False)
seconds, after = time.process_time() - began, memory()
print(seconds, after["VmHWM"] - before["VmRSS"], manifest["train"]["tokens"])
"""
)
READ = (
    MEMORY
    + """
import os
import torch
from gptlib.shards import Shards

def cap(n):
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = os.path.join(root, f"gptlib-{os.getpid()}")
        try:
            os.mkdir(group)
            open(os.path.join(group, limit), "w").write(str(n))
            open(os.path.join(group, "cgroup.procs"), "w").write(str(os.getpid()))
            return group, "a cap of"
        except OSError:
            continue
    return None, "no cap, which would be"

T, B, generator = 1024, 32, torch.Generator().manual_seed(0)
train = Shards(sys.argv[1])
train.batch([0], T)
n = train.n_windows(T)
order = torch.randperm(n, generator=generator)
size = train.n_tokens * train.dtype.itemsize // 4
before, (group, capped), began = memory(), cap(size), time.process_time()
for indices in order.split(B):
    x, y = train.batch(indices, T)
seconds, after = time.process_time() - began, memory()
if group:  # leave it, so that it can be removed
    open(os.path.join(os.path.dirname(group), "cgroup.procs"), "w").write(str(os.getpid()))
    os.rmdir(group)
print(seconds, n, *(after[a] - before[b] for a, b in (("VmHWM", "VmRSS"), ("RssAnon",) * 2, ("RssFile",) * 2)), end=" ")
print(size / 1e6, capped, sep=" ")
"""
)


def made_up(rng: np.random.Generator, words: list[str], n: int) -> list[str]:
    """New words: letters that each follow the two before them as often as in `words`."""
    counts = np.full((27, 27, 27), 1e-9)
    for word in words:
        codes = [0, 0, *(ord(letter) - 96 for letter in word), 0]
        for three in zip(codes, codes[1:], codes[2:]):
            counts[three] += 1
    sums = (counts / counts.sum(-1, keepdims=True)).cumsum(-1)
    rows = np.zeros((n, 14), np.int64)
    for i in range(2, 14):
        chosen = sums[rows[:, i - 2], rows[:, i - 1]] < rng.random((n, 1))
        rows[:, i] = np.where((i == 2) | (rows[:, i - 1] > 0), chosen.sum(1).clip(max=26), 0)
    letters = np.array(list(" abcdefghijklmnopqrstuvwxyz"))
    return ["".join(row).strip() or "a" for row in letters[rows].tolist()]


def generate(path: Path, size: int) -> float:
    """Write about `size` bytes of text; returns the share of words that occur nowhere before."""
    rng = np.random.default_rng(0)
    text = gptlib.load_text("shakespeare") + "".join(documents(ROOT / "data" / "factbook" / "factbook.jsonl.gz"))
    found = Counter(re.findall(r"\S+", text))
    words, freqs = np.array(list(found), dtype=object), np.array(list(found.values()))
    plain = [word for word in found if re.fullmatch("[a-z]+", word)]
    seen, new, total = set(found), 0, 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        while file.tell() < size:
            chosen = rng.choice(words, WORDS, p=freqs / freqs.sum())
            at = rng.choice(WORDS, int(NEW * WORDS), replace=False)
            chosen[at] = made = made_up(rng, plain, len(at))
            new, total = new + len(set(made) - seen), total + WORDS
            seen.update(made)
            chosen[rng.choice(WORDS, WORDS // 100)] = "\n"
            file.write(" ".join(chosen))
    return new / total


def run(program: str, *arguments: object) -> list[str]:
    """The words that the program prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr or f"the program ended with {done.returncode}: it needed more memory than its cap")
    return done.stdout.split()


def verdict(within: bool) -> str:
    return "within the limit" if within else "ABOVE THE LIMIT"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000, help="the size of the text (1000)")
    size = parser.parse_args().megabytes * 10**6
    if not Path("/proc/self/status").is_file():
        sys.exit("memory is measured as Linux reports it, and this system is another")
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.machine()}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        source, folder = Path(scratch) / "text.txt", Path(scratch) / "shards"
        share = generate(source, size)
        size = source.stat().st_size
        print(f"text: {size / 1e6:,.0f} MB in one document, {share:.1%} of the words new", flush=True)
        seconds, grown, tokens = map(float, run(PREPARE, source, folder))
        speed = size / 1e6 / seconds
        print(
            f"prepare: {tokens:,.0f} tokens, {speed:.2f} MB per CPU second, {verdict(speed >= LIMIT_SPEED)}; "
            f"memory grew by {grown:.0f} MB, {verdict(grown <= LIMIT_MB)}",
            flush=True,
        )
        source.unlink()
        seconds, n, grown, anonymous, mapped, limit, *capped = run(READ, folder)
        print(
            f"read: {int(n):,} windows of 1,024 tokens in random order, {float(seconds) / int(n) * 1e6:.0f} µs each, "
            f"with {' '.join(capped)} {float(limit):.0f} MB, a quarter of the shards;\nmemory grew by "
            f"{float(grown):.0f} MB, {verdict(float(grown) <= LIMIT_MB)} (at the end by {float(anonymous):.0f} MB of "
            f"its own and {float(mapped):.0f} MB of files)"
        )


if __name__ == "__main__":
    main()
