"""How fast do gptlib and transformers load SmolLM2 and decode with it, from the same file?

`python tests/benchmarks/chat.py` takes some minutes on two cores. Decoding is greedy, with a cache, in float32; both
take turns, so that whatever else the machine does meets both alike; a ratio is that of two neighboring measurements,
and what is printed is the median and the middle half. Loading is measured in a process of its own for each, with the
largest memory that the process held. It needs the package with the file, and transformers, gguf and accelerate.
"""

import argparse
import os
import resource
import subprocess
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from _turns import spread, take_turns

from gptlib import smollm2
from gptlib.sampling import generate

transformers.utils.logging.disable_progress_bar()
PROMPT = "<|im_start|>user\nTell me about the sea.<|im_end|>\n<|im_start|>assistant\n"


def load_ours():
    return smollm2.load()[0]


def load_theirs():
    path = smollm2.find_file()
    loaded = transformers.LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return loaded.eval()


def by_transformers(theirs, idx, n: int):
    return theirs.generate(
        idx, attention_mask=torch.ones_like(idx), max_new_tokens=n, min_new_tokens=n, do_sample=False, use_cache=True,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip


def seconds(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def loading(which: str) -> str:
    """In a new process: the seconds that loading takes, and the process's peak of memory before and after."""
    command = [sys.executable, __file__, "--load", which]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def peak() -> int:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1000 if sys.platform == "linux" else 1_000_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--new", type=int, default=100, help="how many tokens to generate (100)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each, at least 2 (5)")
    parser.add_argument("--load", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        before = peak()
        taken = seconds(load_ours if options.load == "ours" else load_theirs)
        print(f"{taken:5.1f} s, peak memory {peak():,} MB, of which {before:,} before")
        return

    print(f"PyTorch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads")
    print(f"loading by gptlib        {loading('ours')}\nloading by transformers  {loading('theirs')}")
    ours, theirs = load_ours(), load_theirs()
    weights = sum(parameter.numel() * parameter.element_size() for parameter in ours.parameters())
    print(f"weights {weights / 1e6:,.0f} MB in float32")
    tokenizer = smollm2.load()[1]
    idx = torch.tensor([tokenizer.encode(PROMPT, tokenizer.special_tokens)])
    n = options.new
    same = torch.equal(generate(ours, idx, 16, temperature=0), by_transformers(theirs, idx, 16))
    print("the first 16 tokens are the same" if same else "TEXTS DIFFER")
    times = take_turns(
        {
            "gptlib": lambda: seconds(lambda: generate(ours, idx, n, temperature=0)),
            "transformers": lambda: seconds(lambda: by_transformers(theirs, idx, n)),
        },
        options.rounds,
    )
    print(f"{n} tokens after a prompt of {idx.shape[1]}")
    for name, values in times.items():
        rates, ratios = [n / t for t in values], [t / o for t, o in zip(values, times["gptlib"], strict=True)]
        print(f"  {name:14} {spread(rates)} tokens/s, {spread(ratios)} times gptlib's time", flush=True)


if __name__ == "__main__":
    main()
