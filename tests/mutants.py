"""Named faults that the tests of a GPT course must notice: each is put, alone, into a copy of the package.

    python tests/mutants.py            all of them
    python tests/mutants.py mask head  those with one of these words in their name

A fault is one edit: {file: {old: {new: name}}}. `old` stands once in the file; where it no longer does, the run
stops and names it. The tests of the edited module run first, then all the other core tests, until one fails.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Tests of pages, pictures and exercises: every fault must be noticed without them.
LEFT_OUT = "browser checks checks_first colab diagrams exercises explorer notebooks plot repository stamp".split()
# Where a module's own tests have another name.
TESTS = {"files": "checkpoint"}

FAULTS = {
    "attention.py": {
        "scores.softmax(dim=-1)": {"scores.softmax(dim=-2)": "softmax over the queries"},
        "/ math.sqrt(D)": {"": "scale left out of the weights", "/ D": "scale by D without the root, weights"},
        "x.transpose(-3, -2).flatten(-2)": {"x.flatten(-3, -2)": "heads merged without the transpose"},
        "is_causal=self.causal and T == S)": {
            "is_causal=False)": "no mask, kernel",
            "is_causal=self.causal and T == S, scale=1.0)": "scale left out of the kernel",
        },
        "    if causal:\n": {"    if False:\n": "no mask, weights"},
        ".triu(1 + S - T)": {
            ".triu(2 + S - T)": "mask one to the right, weights",
            ".triu(S - T)": "mask one to the left, weights",
        },
        "self.dropout if self.training else 0.0": {"self.dropout": "dropout on the weights in evaluation"},
    },
    "model.py": {
        'nn.GELU(approximate="tanh")': {"nn.GELU()": "exact GELU"},
        "x = x + self.attention(self.norm1(x), past)": {
            "x = self.attention(self.norm1(x), past)": "residual around attention dropped",
            "x = self.norm1(x + self.attention(x, past))": "post-norm for pre-norm, attention",
            "x = self.norm1(x) + self.attention(self.norm1(x), past)": "residual taken after the norm",
        },
        "x = x + self.feed_forward(self.norm2(x))": {
            "x = self.feed_forward(self.norm2(x))": "residual around feed-forward dropped",
            "x = self.norm2(x + self.feed_forward(x))": "post-norm for pre-norm, feed-forward",
        },
        "self.head(self.norm(x))": {"self.head(x)": "final norm left out"},
        "self.head.weight = self.token_embedding.weight": {"pass": "output layer not tied"},
        "self.token_embedding(idx) + self.position_embedding(positions)": {
            "self.token_embedding(idx)": "position embedding left out"
        },
    },
    "data.py": {
        "ids[:cut], ids[cut:]": {"ids[:cut], ids[:cut]": "validation set taken from the training set"},
        "chosen[:, :-1], chosen[:, 1:]": {"chosen[:, :-1], chosen[:, :-1]": "targets not shifted in a batch"},
        "(batch_size,), generator=generator)": {"(batch_size,))": "generator ignored by batches"},
    },
    "sampling.py": {
        "logits < kth": {"logits <= kth": "top-k drops the k-th"},
        "logits.topk(k, dim=-1)": {"logits.topk(min(k + 1, logits.shape[-1]), dim=-1)": "top-k keeps one more"},
        "tail <= 1 - p": {"tail < 1 - p + ascending.softmax(dim=-1)": "top-p one short"},
        "cut.scatter(-1, order, cut)": {"cut": "top-p not put back in order"},
        "(logits - highest) / temperature": {
            "(logits - highest) * temperature": "temperature multiplies",
            "logits / temperature": "a low temperature overflows",
        },
        "generator=generator)": {"generator=None)": "generator ignored by generation"},
    },
    "training.py": {
        "clip_grad_norm_(model.parameters(), clip)": {
            "clip_grad_norm_(model.parameters(), 1e9)": "gradient not clipped"
        },
        "peak * (step + 1) / warmup_steps": {"peak * step / warmup_steps": "warm-up one step late"},
        '"weight_decay": 0.0}': {'"weight_decay": weight_decay}': "weight decay on biases"},
        "            optimizer.zero_grad()\n": {"": "gradient not cleared"},
    },
    "positions.py": {
        "(-2 * pair / channels)": {"(-4 * pair / channels)": "frequencies fall twice as fast"},
        "[first * cos - second * sin, first * sin + second * cos]": {
            "[first * cos + second * sin, second * cos - first * sin]": "rotation the other way"
        },
    },
    "probe.py": {
        "hook.remove()": {"pass": "hooks left on the model"},
    },
    "bpe.py": {
        "counts[now] += often[w]": {"counts[now] += 1": "new pairs count once"},
        "len(merges) < n_merges": {"len(merges) <= n_merges": "one merge too many"},
        "'t|'re|'ve": {"'t|'ve": "an ending forgotten"},
        "counts[old] -= often[w]": {"pass": "pairs taken away still count"},
        "| ?[0-9]+": {"|[0-9]+": "numbers without their space"},
        r"|\s+(?!\S)|\s+": {r"|\s+": "the last space is not left to the word"},
    },
}


def listed() -> list[tuple[str, str, str, str]]:
    """(file, old, new, name) of every fault."""
    return [(file, *edit) for file, olds in FAULTS.items() for edit in edits(olds)]


def edits(olds: dict[str, dict[str, str]]) -> list[tuple[str, str, str]]:
    return [(old, new, name) for old, news in olds.items() for new, name in news.items()]


def lost(package: Path) -> list[str]:
    """The faults that can no longer be made, and why."""
    found = []
    for file, old, new, name in listed():
        count = (package / file).read_text(encoding="utf-8").count(old) if (package / file).exists() else 0
        if count != 1 or old == new:
            found.append(f"{name}: {old!r} stands {count} times in {file}, not once")
    return found


def first_failure(folder: Path, file: str) -> str | None:
    """The first test in `folder` that fails, those of the module first; None when all pass."""
    module = file.split("/")[0].removesuffix(".py")
    tests = sorted(folder.glob("tests/test_*.py"), key=lambda path: path.stem != f"test_{TESTS.get(module, module)}")
    tests = [path for path in tests if path.stem.removeprefix("test_") not in LEFT_OUT]
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-rfE", "-p", "no:cacheprovider", *map(str, tests)]
    own = {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0] if failed else f"no test, but pytest said:\n{done.stdout[-2000:]}{done.stderr[-1000:]}"


def main(words: list[str]) -> int:
    if gone := lost(ROOT / "gptlib"):
        sys.exit("These faults can no longer be made: update tests/mutants.py.\n" + "\n".join(gone))
    chosen = [fault for fault in listed() if not words or any(word in fault[3] for word in words)]
    unnoticed = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        for name in ("gptlib", "tests", "data", "tools", "notebooks"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.checkpoint"))
        for name in ("conftest.py", "pyproject.toml"):
            shutil.copy(ROOT / name, folder / name)
        if failed := first_failure(folder, "attention.py"):
            sys.exit(f"without any fault, this fails: {failed}")
        for file, old, new, name in chosen:
            path = folder / "gptlib" / file
            original = path.read_text(encoding="utf-8")
            path.write_text(original.replace(old, new), encoding="utf-8")
            failed = first_failure(folder, file)
            path.write_text(original, encoding="utf-8")
            print(f"{'noticed' if failed else 'UNNOTICED':10} {name:45} {failed or ''}", flush=True)
            unnoticed += [] if failed else [name]
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} faults noticed")
    return bool(unnoticed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
