"""How much memory does loading GPT-2 take? `pretrained.load` beside transformers' `from_pretrained`, and the naive way.

`python tests/benchmarks/loading.py` writes GPT-2's 124M shape with random weights in the Hugging Face layout, and loads
it in each way, each time in a process of its own: the peak is what the operating system says that the process held at
most. `--size small` tries it in seconds. The naive way draws a whole model, reads the whole file, and copies.

The limit that the course sets itself: a whole process with PyTorch, at most 1.2 times the weights and 300 MB.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error")

# Each part is a program of its own. This one imports nothing large: on Linux a process counts what its parent held.
WRITE = """
import sys, torch, transformers
from gptlib import pretrained
from gptlib.model import GPT, GPTConfig
torch.manual_seed(0)
small = GPTConfig(vocab_size=500, context_length=128, n_layer=4, n_head=4, n_embd=256)
model = GPT(gpt2.SIZES[sys.argv[2]].config if sys.argv[2] in gpt2.SIZES else small)
pretrained.save_gpt2(model, sys.argv[1])
print(torch.__version__, transformers.__version__, torch.get_num_threads())
print(sum(parameter.numel() for parameter in model.parameters()))
"""
WAYS = {
    "PyTorch imported, nothing loaded": """
import torch

def load(folder):
    return torch.nn.Linear(1, 1)
""",
    "gptlib, pretrained.load": """
from gptlib import pretrained

def load(folder):
    return pretrained.load(folder)[0]
""",
    "transformers, from_pretrained": """
from transformers import GPT2LMHeadModel
load = GPT2LMHeadModel.from_pretrained
""",
    "naive: GPT, load_file, copy": """
import json
from pathlib import Path
from safetensors.torch import load_file
from gptlib.gpt2 import hf_names, read_config, transposed
from gptlib.model import GPT

def load(folder):
    model = GPT(read_config(json.loads((Path(folder) / "config.json").read_text())))
    weights = load_file(Path(folder) / "model.safetensors")
    names = hf_names(model.config.n_layer).items()
    weights = {ours: weights[hf].mT if transposed(hf) else weights[hf] for ours, hf in names}
    weights["lm_head.weight"] = weights["token_embedding.weight"]
    model.load_state_dict(weights)
    return model
""",
}
# The clock starts when the library is there, and stops when each weight has been used: a file may be read no sooner.
MEASURE = """
import resource, sys, time
began = time.perf_counter()
total = sum(parameter.detach().sum() for parameter in load(sys.argv[1]).parameters())
seconds = time.perf_counter() - began
unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, seconds)
"""


def run(program: str, *arguments: str) -> list[str]:
    """The words that the program prints."""
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="124M", help="124M (the default), 355M, 774M, 1.5B or small")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (3)")
    options = parser.parse_args()

    results = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = str(Path(scratch) / "gpt2")
        pytorch, library, threads, count = run(WRITE, folder, options.size)
        weights = 4 * int(count) / 1e6
        limit = 1.2 * weights + 300
        print(
            f"PyTorch {pytorch}, transformers {library}, {threads} threads\n{options.size}: {int(count):,} parameters, "
            f"float32: {weights:,.0f} MB; the limit is {limit:,.0f} MB"
        )
        for _ in range(options.rounds):  # the ways take turns
            for way, program in WAYS.items():
                results[way].append([float(word) for word in run(program + MEASURE, folder)[-2:]])
    alone = max(peak for peak, _ in results["PyTorch imported, nothing loaded"])
    for way, pairs in results.items():
        peak, seconds = max(peak for peak, _ in pairs), statistics.median(seconds for _, seconds in pairs)
        print(
            f"  {way:33} peak {peak:6,.0f} MB, {'within' if peak <= limit else 'ABOVE'} the limit; "
            f"{peak - alone:6,.0f} MB above PyTorch alone; {seconds:5.2f} s"
        )


if __name__ == "__main__":
    main()
