"""Does a run survive SIGKILL at any instant? `python tests/benchmarks/kill.py [--runs 20] [--processes 2]`

One run trains to its end. Each of the others is killed with all its processes at a random instant, started again, and
so on, up to three times; then it is left to its end. Each must leave what the unbroken run left, bit for bit: the
parameters, the moments, the log without its times, the finished model. The model is small and writes a checkpoint every
third step, so that many instants fall into writing. It needs /proc, and so Linux.
"""

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from gptlib.shards import prepare
from gptlib.tokenizers import CharTokenizer

CONFIG = """
[model]
architecture = "gpt"
context_length = 32
n_layer = 2
n_head = 4
n_embd = 64
dropout = 0.1

[training]
steps = {steps}
batch_size = 12
learning_rate = 1e-3
warmup_steps = 10

[run]
shards = "{folder}/shards"
folder = "{folder}/runs"
micro_batch = 3
eval_every = 50
save_every = 3
"""


def start(config: Path, folder: Path, processes: int) -> subprocess.Popen:
    many = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    command = [sys.executable, *(many if processes > 1 else []), "-m", "gptlib.pretrain", str(config)]
    with open(f"{folder}.txt", "a") as output:
        return subprocess.Popen([*command, f"run.folder={folder}"], stdout=output, stderr=output)


def descendants(pid: int) -> list[int]:
    """The process and all that it started, by /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            pass  # it has ended
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def rows(folder: Path) -> int:
    log = folder / "log.csv"
    return log.read_text().count("\n") if log.exists() else 0


def result(folder: Path, steps: int) -> dict:
    state = torch.load(folder / f"step-{steps:08}.pt", weights_only=True)
    found = {"model": (folder / "model.safetensors").read_bytes(), "groups": state["optimizer"]["param_groups"]}
    for name, moments in [("parameters", state["model"]), *state["optimizer"]["state"].items()]:
        found |= {f"{name} {key}": torch.as_tensor(value).numpy().tobytes() for key, value in moments.items()}
    for group in found["groups"]:
        group["betas"] = list(group["betas"])  # a tuple before it was written
    with (folder / "log.csv").open() as file:
        found["log"] = [[*row.values()][:6] for row in csv.DictReader(file)]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="that are killed (20)")
    parser.add_argument("--processes", type=int, default=1, help="of each run (1)")
    parser.add_argument("--steps", type=int, default=300, help="of each run (300)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (0)")
    options, bad, kills, chance = parser.parse_args(), [], 0, random.Random(0)
    chance.seed(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder, letters = Path(scratch), random.Random(1)
        text = "\n\n".join("".join(letters.choices("abcdefgh ", k=300)) for _ in range(100))
        (folder / "text.txt").write_text(text)
        tokenizer = CharTokenizer("\nabcdefgh ")
        prepare(folder / "text.txt", folder / "shards", tokenizer, separator="\n\n", progress=False)
        config = folder / "config.toml"
        config.write_text(CONFIG.format(steps=options.steps, folder=folder))
        unbroken = folder / "unbroken"
        if start(config, unbroken, options.processes).wait():
            raise SystemExit(Path(f"{unbroken}.txt").read_text())
        with (unbroken / "log.csv").open() as file:
            seconds = float([*csv.DictReader(file)][-1]["seconds"])
        expected = result(unbroken, options.steps)
        for i in range(options.runs):
            broken, at = folder / f"run{i}", []
            for _ in range(chance.randint(1, 3)):
                running = start(config, broken, options.processes)
                begun = rows(broken)
                while running.poll() is None and rows(broken) in (0, begun):
                    time.sleep(0.01)  # until it trains
                time.sleep(chance.uniform(0, 0.8 * seconds))
                for pid in descendants(running.pid) if running.poll() is None else []:
                    os.kill(pid, signal.SIGKILL)
                running.wait()
                at.append(rows(broken))
            failed = start(config, broken, options.processes).wait()
            same = not failed and result(broken, options.steps) == expected
            kills += len(at)
            bad += [] if same else [i]
            print(f"run {i}: killed in step {at}: {'the same' if same else 'ANOTHER RESULT'}", flush=True)
    print(f"{options.runs - len(bad)} of {options.runs} runs, killed {kills} times, end as the unbroken one")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
