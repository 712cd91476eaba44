"""Training a small GPT with one and two threads, idle and beside a busy program, with spinning and sleeping threads.

    python tests/benchmarks/busy.py            400 steps, 1 layer, 32 channels
    python tests/benchmarks/busy.py 100        100 steps

PyTorch's OpenMP threads spin while they wait for each other. Beside another program that costs most of the time;
OMP_WAIT_POLICY=PASSIVE, which the course sets, lets them sleep. "Idle" means what it says only where nothing else runs:
the load of the machine is printed first.
"""

import os
import subprocess
import sys
import time

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 400
LIMIT = 2.5  # with the setting of the course, busy costs at most this many times idle
TIMEOUT = 600  # seconds for one training
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # ends with this program
TRAIN = f"""
import time, torch
from torch import nn
torch.manual_seed(0)
B, T, C, V = 32, 32, 32, 65
layer = nn.TransformerEncoderLayer(C, 4, 4 * C, dropout=0.0, batch_first=True, norm_first=True)
model = nn.Sequential(nn.Embedding(V, C), layer, nn.LayerNorm(C), nn.Linear(C, V))
optimizer = torch.optim.AdamW(model.parameters())
begun = time.perf_counter()
for step in range({STEPS}):
    ids = torch.randint(V, (B, T + 1))
    loss = nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(time.perf_counter() - begun)
"""


def seconds(threads: int, policy: str | None, busy: bool) -> float:
    """How long the steps take in a process of its own; infinite when they do not end in time."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_", "GOMP_"))}
    environment |= {"OMP_NUM_THREADS": str(threads)} | ({"OMP_WAIT_POLICY": policy} if policy else {})
    beside = subprocess.Popen([sys.executable, "-c", SPIN]) if busy else None
    try:
        done = subprocess.run(
            [sys.executable, "-c", TRAIN], env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=True
        )
        return float(done.stdout)
    except subprocess.TimeoutExpired:
        return float("inf")
    finally:
        if beside:
            beside.kill()
            beside.wait()


def main() -> int:
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{STEPS} steps; {os.cpu_count()} cores{load} at {time.strftime('%H:%M')}")
    print(f"{'threads':>7}  {'waiting threads':16} {'idle, s':>8} {'busy, s':>8} {'busy / idle':>12}")
    held = True
    for policy in (None, "PASSIVE"):
        for threads in (1, 2):
            idle, busy = (seconds(threads, policy, busy) for busy in (False, True))
            print(
                f"{threads:7}  {'sleep' if policy else 'spin':16} {idle:8.1f} {busy:8.1f} {busy / idle:12.1f}",
                flush=True,
            )
            held &= policy is None or busy <= LIMIT * idle
    print(f"With sleeping threads, busy costs {'at most' if held else 'MORE THAN'} {LIMIT} times idle.")
    return not held


if __name__ == "__main__":
    sys.exit(main())
