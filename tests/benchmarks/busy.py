"""How long does a small training take beside a busy program? `python tests/benchmarks/busy.py [--size 1 32]`

PyTorch divides an operation among OpenMP threads, and threads that wait for each other spin: they keep their core
busy. On a machine with another busy program, a waiting thread then holds the core that the thread it waits for needs.
`OMP_WAIT_POLICY=PASSIVE` lets waiting threads sleep instead; one thread has nobody to wait for.

Each row of the table is a setting, trained idle and beside one process that computes without a pause. All settings take
turns, so that whatever else the machine does affects each alike. "Idle" is true only where nothing else runs: the load
of the machine is printed first.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from _turns import take_turns

LIMIT = 2.5  # with PASSIVE, busy takes at most this many times as long as idle
TIMEOUT = 600  # seconds for one training
TRAIN = """
import sys, time, torch, gptlib
torch.manual_seed(0)
steps, n_layer, n_embd = map(int, sys.argv[1:])
config = gptlib.GPTConfig(vocab_size=65, context_length=32, n_layer=n_layer, n_head=4, n_embd=n_embd)
model, ids = gptlib.GPT(config), torch.randint(65, (100_000,))
start = time.perf_counter()
gptlib.train(model, ids, steps=steps)
print(time.perf_counter() - start)
"""
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # it ends with this program at the latest


@contextlib.contextmanager
def busy_program() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def seconds(steps: int, size: tuple[int, int], threads: int, passive: bool, busy: bool) -> float:
    """The time of one training in a process of its own; infinite when it takes longer than TIMEOUT."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_", "GOMP_"))}
    environment |= {"OMP_NUM_THREADS": str(threads)} | ({"OMP_WAIT_POLICY": "PASSIVE"} if passive else {})
    command = [sys.executable, "-c", TRAIN, *map(str, (steps, *size))]
    with busy_program() if busy else contextlib.nullcontext():
        try:
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, check=True
            )
        except subprocess.TimeoutExpired:
            return float("inf")
    return float(done.stdout.split()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3, help="each time is the median of this many trainings")
    parser.add_argument("--size", type=int, nargs=2, default=(1, 32), metavar=("LAYERS", "CHANNELS"))
    given = parser.parse_args()
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    print("{} steps of a GPT with n_layer={}, n_embd={}".format(given.steps, *given.size), end="; ")
    print(f"{os.cpu_count()} cores, {load}, median of {given.rounds}")
    contestants = {
        (threads, passive, busy): partial(seconds, given.steps, given.size, threads, passive, busy)
        for threads in (1, 2)
        for passive in (False, True)
        for busy in (False, True)
    }
    medians = {setting: statistics.median(times) for setting, times in take_turns(contestants, given.rounds).items()}
    print(f"{'threads':>7}  {'OMP_WAIT_POLICY':15}  {'idle, s':>8}  {'busy, s':>8}  {'busy / idle':>11}")
    ratios = []
    for threads, passive in [(1, False), (1, True), (2, False), (2, True)]:
        idle, busy = medians[threads, passive, False], medians[threads, passive, True]
        policy = "PASSIVE" if passive else "not set"
        print(f"{threads:7}  {policy:15}  {idle:8.1f}  {busy:8.1f}  {busy / idle:11.1f}")
        ratios += [busy / idle] * passive
    verdict = "at most" if max(ratios) <= LIMIT else "MORE THAN"
    print(f"With PASSIVE, which the course sets, busy takes {verdict} {LIMIT} times as long as idle.")
    return max(ratios) > LIMIT


if __name__ == "__main__":
    sys.exit(main())
