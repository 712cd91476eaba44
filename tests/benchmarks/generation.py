"""How fast is text generated? gptlib with and without its cache beside transformers with its own, same weights.

`python tests/benchmarks/generation.py` takes GPT-2's 124M shape with random weights, and half an hour or more on two
cores; `--size small --new 20,100` tries it in seconds. Greedy, in float32. All take turns, so that whatever else the
machine does meets all alike; a ratio is that of two neighbouring measurements, and what is printed is the median and
the middle half.

Without a cache the time of a token grows with the text, and 1,000 tokens take very long. So only some lengths of text
are timed, spread evenly, and the sum over all is estimated from these; for few tokens the estimate is held against the
whole loop (`--check`).
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the oracle of the tests

import torch
import transformers
from _turns import spread, take_turns

from conftest import copy_into_gpt2
from gptlib.attention import Linear
from gptlib.model import GPT, GPTConfig
from gptlib.sampling import generate, stream

SIZES = {
    "124M": GPTConfig(vocab_size=50257, context_length=1024, n_layer=12, n_head=12, n_embd=768),
    "small": GPTConfig(vocab_size=500, context_length=128, n_layer=4, n_head=4, n_embd=64),
}


def by_transformers(theirs, idx, n: int):
    return theirs.generate(
        idx, attention_mask=torch.ones_like(idx), max_new_tokens=n, min_new_tokens=n, do_sample=False, use_cache=True,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip


def seconds(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@torch.no_grad()
def uncached(model: GPT, idx, n: int):
    """The naive loop: the whole text again for each token."""
    for _ in range(n):
        idx = torch.cat([idx, model(idx)[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    return idx


@torch.no_grad()
def uncached_seconds(model: GPT, idx, n: int, samples: int) -> float:
    """The naive loop's time for n tokens, from `samples` lengths of text in the middle of equal shares of the loop."""
    total = 0.0
    for sample in range(samples):
        t = idx.shape[1] + int((sample + 0.5) * n / samples)
        text = torch.zeros(len(idx), t, dtype=torch.long)
        total += seconds(lambda text=text: uncached(model, text, 1))
    return total * n / samples


def report(name: str, times: list[float], tokens: int, ours: list[float]) -> None:
    rates, ratios = [tokens / t for t in times], [t / o for t, o in zip(times, ours, strict=True)]
    print(f"  {name:32} {spread(rates)} tokens/s, {spread(ratios)} times gptlib's time", flush=True)


def compare(model: GPT, theirs, n: int, prompt: int, rounds: int, samples: int) -> None:
    idx = torch.randint(model.config.vocab_size, (1, prompt))
    times = take_turns(
        {
            "gptlib, cached": lambda: seconds(lambda: generate(model, idx, n, temperature=0)),
            "transformers, cached": lambda: seconds(lambda: by_transformers(theirs, idx, n)),
            "gptlib, uncached (estimated)": lambda: uncached_seconds(model, idx, n, samples),
        },
        rounds,
    )
    print(f"{n:,} tokens after a prompt of {prompt}")
    for name, values in times.items():
        report(name, values, n, times["gptlib, cached"])


def early_and_late(model: GPT, prompt: int, n: int, rounds: int) -> None:
    """The time of an early token and of the last, with the cache, each the median of the ten around it."""
    early, late = [], []
    for _ in range(rounds):
        moments = [time.perf_counter()]
        for _ in stream(model, torch.zeros(1, prompt, dtype=torch.long), n, temperature=0):
            moments.append(time.perf_counter())
        times = [after - before for before, after in zip(moments, moments[1:])]
        early.append(1000 * statistics.median(times[5:15]))
        late.append(1000 * statistics.median(times[-10:]))
    ratios = [b / a for a, b in zip(early, late)]
    print(f"one token with the cache: about the 10th {spread(early)} ms, about number {n:,} {spread(late)} ms")
    print(f"  ratio {spread(ratios)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="124M", help="shape of the model (124M)")
    parser.add_argument("--new", default="200,1000", help="how many tokens to generate (200,1000)")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of the prompt (16)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each, at least 2 (5)")
    parser.add_argument("--samples", type=int, default=10, help="lengths at which the uncached loop is timed (10)")
    parser.add_argument("--check", type=int, default=30, help="tokens for which its estimate is checked (30)")
    parser.add_argument("--plain", action="store_true", help="with plain nn.Linear layers in gptlib's model")
    options = parser.parse_args()
    news = [int(n) for n in options.new.split(",")]

    torch.manual_seed(0)
    model = GPT(SIZES[options.size]).eval()
    theirs = copy_into_gpt2(model, attention="sdpa")
    for module in model.modules():
        if options.plain and isinstance(module, Linear):
            module.__class__ = torch.nn.Linear
    c = model.config
    print(
        f"PyTorch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}\n{c.n_layer} layers x {c.n_embd} channels x context "
        f"{c.context_length}: {sum(parameter.numel() for parameter in model.parameters()):,} parameters, float32"
    )
    idx = torch.randint(c.vocab_size, (1, options.prompt))
    texts = [generate(model, idx, 8, temperature=0), by_transformers(theirs, idx, 8), uncached(model, idx, 8)]  # warm
    print("the first 8 tokens are the same" if all(torch.equal(texts[0], text) for text in texts) else "TEXTS DIFFER")
    n = options.check
    estimates = [
        uncached_seconds(model, idx, n, options.samples) / seconds(lambda: uncached(model, idx, n)) for _ in range(3)
    ]
    print(f"uncached, {n} tokens: estimate / whole loop {spread(estimates)}", flush=True)
    for n in news:
        compare(model, theirs, n, options.prompt, options.rounds, options.samples)
    early_and_late(model, options.prompt, max(news), options.rounds)


if __name__ == "__main__":
    main()
