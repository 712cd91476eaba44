"""How much does a model learn in nanoGPT's time, and in an eighth of it? `python tests/benchmarks/speedrun.py`

nanoGPT's recipe for Tiny Shakespeare on a CPU, written anew with the course's GPT, and a modern recipe train in turns,
a step of one and then a step of another, so that whatever else the machine does meets all alike. All of a training
counts, from making the model on. Nothing is compiled: compiling one block costs more than it saves in so short a time.
Each loss is that of the whole validation set in windows of the model's context. What `modern` does otherwise:

- ModernGPT: RMSNorm, rotary positions (base 1,000, as the context is short), squared ReLU, QK-norm, an untied output
  layer, logits below 15; the context is 128. A table of 65² logits, of a bigram model, is added to the output.
- The output layer, and what adds to the residual stream, start at 0, so that the first steps learn the simplest things.
- Hash n-gram embeddings (Pagnoni et al. 2024, section 3.2.1): the last 2, 3, 4, 5 and 6 characters each choose a row of
  a trainable table, and these are added to the embedding. The blocks then need not learn spelling. In a long training
  some of the rows are dropped: the long n-grams know the training set by heart. "no n-grams" is without these tables.
- Muon for the matrices and AdamW for the rest, each with its rate, constant and then linearly down to 0; no clipping.
- Batches of 4,096 tokens: Newton–Schulz costs the same for any batch. No window comes twice before all have come once.
- bfloat16 for matrix products, where this is faster. The attention kernel stays in float32: its backward pass was five
  times as slow in bfloat16.

These were chosen on the middle 5 % of the training set, which `--held-out` leaves out and measures.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from functools import partial

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptlib.attention import Attend
from gptlib.data import get_batch, load_text, train_val_split
from gptlib.model import GPT, GPTConfig
from gptlib.modern import ModernConfig, ModernGPT
from gptlib.muon import Muon
from gptlib.tokenizers import CharTokenizer
from gptlib.training import cosine_schedule, evaluate, make_optimizer, next_token_loss

V = 65  # characters
ROWS = 32_749  # of each table of n-gram embeddings: a prime number


def nanogpt(ids: Tensor, steps: int) -> Iterator[nn.Module]:
    """The recipe in nanoGPT's README: 4 layers, 128 channels, context 64, batches of 12, AdamW, a cosine.

    nanoGPT's fused AdamW needs a GPU; here the baseline has PyTorch's fused one, which makes it a little faster.
    """
    model = GPT(GPTConfig(V, context_length=64, n_layer=4, n_head=4, n_embd=128))
    for block in model.blocks:
        block.feed_forward.activation = nn.GELU()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.endswith("bias"))  # they start at 0: without them, as there
    optimizer = make_optimizer(model, 1e-3, weight_decay=0.1)

    for step in range(steps):
        x, y = get_batch(ids, 12, 64)
        for group in optimizer.param_groups:
            group["lr"] = cosine_schedule(step, steps, learning_rate=1e-3, warmup_steps=100, floor=1e-4)
        next_token_loss(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield model


def zeros(rows: int, columns: int) -> nn.Embedding:
    return nn.Embedding.from_pretrained(torch.zeros(rows, columns), freeze=False)


class NgramEmbedding(nn.Module):
    """The token's embedding plus one row for each of the last 2, 3, … characters, found by a polynomial hash."""

    def __init__(self, n_embd: int, orders: range, dropout: float):
        super().__init__()
        self.token = nn.Embedding(V, n_embd)
        self.tables = nn.ModuleList([zeros(ROWS, n_embd) for _ in orders])
        self.dropout = nn.Dropout1d(dropout)  # of whole rows
        nn.init.normal_(self.token.weight, std=0.02)

    def forward(self, idx: Tensor) -> Tensor:
        """idx (B, T) -> (B, T, C)"""
        x, key = self.token(idx), idx + 1
        for n, table in enumerate(self.tables, start=1):
            key = (key * 1_000_003 + F.pad(idx + 1, (n, 0))[:, : idx.shape[1]]) % ROWS  # 0: before the window
            x = x + self.dropout(table(key))
        return x


class SpeedGPT(ModernGPT):
    """ModernGPT with n-gram embeddings and a table of bigram logits."""

    def __init__(self, config: ModernConfig, orders: range, dropout: float):
        super().__init__(config)
        self.token_embedding = NgramEmbedding(config.n_embd, orders, dropout)
        self.bigram = zeros(V, V)
        nn.init.zeros_(self.lm_head.weight)
        for block in self.blocks:
            block.attention.attend = Float32Attend()
            nn.init.zeros_(block.attention.out_proj.weight)
            nn.init.zeros_(block.feed_forward.down_proj.weight)

    def forward(self, idx: Tensor, cache=None) -> Tensor:
        """idx (B, T) -> logits (B, T, V)"""
        return super().forward(idx, cache) + self.bigram(idx)


class Float32Attend(Attend):
    """`Attend` outside of autocast."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(q.float(), k.float(), v.float(), mask)


def bfloat16_is_faster() -> bool:
    """Whether this CPU multiplies matrices faster in bfloat16 than in float32."""
    seconds = []
    for dtype in (torch.float32, torch.bfloat16) * 2:  # the first two warm up
        a, began = torch.ones(1024, 1024, dtype=dtype), time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - began)
    return seconds[3] < seconds[2]


def modern(ids: Tensor, steps: int, layers: int, orders=range(2, 7), dropout=0.0) -> Iterator[nn.Module]:
    """The modern recipe: see the head of this file."""
    T, B = 128, 32
    sizes = {"n_layer": layers, "n_head": 4, "n_kv_head": 4, "n_embd": 128, "n_hidden": 512}
    changes = {"activation": "relu2", "rotary_base": 1000.0, "tied": False, "qk_norm": True, "soft_cap": 15.0}
    config = ModernConfig(V, T, **sizes, **changes)
    model = SpeedGPT(config, orders, dropout)
    matrices = [parameter for parameter in model.blocks.parameters() if parameter.ndim == 2]
    others = [*(set(model.parameters()) - set(matrices))]
    muon = Muon([{"params": matrices, "orthogonal": True}], lr=0.007)
    adamw = torch.optim.AdamW(others, lr=0.01, betas=(0.9, 0.99), eps=1e-10, weight_decay=0.0, fused=True)
    peaks = [(group, group["lr"]) for optimizer in (muon, adamw) for group in optimizer.param_groups]
    bfloat16 = torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_faster())
    starts = torch.empty(0, dtype=torch.long)

    for step in range(steps):
        if len(starts) < B:  # a new pass: all windows in random order, from a random offset
            starts = torch.randperm(len(ids) // T - 1) * T + torch.randint(T, ())
        window, starts = ids[starts[:B, None] + torch.arange(T + 1)], starts[B:]
        for group, peak in peaks:
            group["lr"] = peak * min(1, (1 - step / steps) / 0.6)
        with bfloat16:
            loss = next_token_loss(model(window[:, :-1]).float(), window[:, 1:])
        loss.backward()
        with bfloat16:
            muon.step()
        adamw.step()
        model.zero_grad()
        yield model


RECIPES: dict[str, tuple[Callable, int]] = {  # and the number of steps
    "nanoGPT": (nanogpt, 2000),
    "modern, briefest": (partial(modern, layers=1), 24),
    "modern, an eighth": (partial(modern, layers=1), 100),
    "modern": (partial(modern, layers=3, dropout=0.5), 420),
    "no n-grams, an eighth": (partial(modern, layers=2, orders=range(0)), 90),
    "no n-grams": (partial(modern, layers=4, orders=range(0)), 380),
}


class Run:
    """One training, with its own random numbers and the seconds that it took, making the model included."""

    def __init__(self, recipe: str, ids: Tensor, seed: int):
        train, self.steps = RECIPES[recipe]
        self.training = train(ids, self.steps)
        self.done, self.wall, self.cpu = 0, 0.0, 0.0
        self.random = torch.Generator().manual_seed(seed).get_state()

    def advance(self) -> None:
        torch.set_rng_state(self.random)
        wall, cpu = time.perf_counter(), time.process_time()
        self.model = next(self.training)  # one step
        self.wall, self.cpu = self.wall + time.perf_counter() - wall, self.cpu + time.process_time() - cpu
        self.done, self.random = self.done + 1, torch.get_rng_state()


@torch.no_grad()
def check_causal(model: nn.Module, ids: Tensor) -> None:
    """A loss this low so early would also come of a model that sees the answer: no logits may depend on the future."""
    x = ids[None, : model.config.context_length]
    y = torch.cat([x[:, :40], (x[:, 40:] + 1) % V], dim=1)
    torch.testing.assert_close(model(x)[:, :40], model(y)[:, :40])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--held-out", action="store_true", help="train without 5 % of the training set; measure there")
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES), help="these recipes (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the batches (0)")
    options = parser.parse_args()
    text = load_text("shakespeare")
    ids, test = train_val_split(CharTokenizer(text).encode(text))
    if options.held_out:
        start, end = int(0.475 * len(ids)), int(0.525 * len(ids))
        ids, test = torch.cat([ids[:start], ids[end:]]), ids[start:end]
    print(
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads; losses on all of "
        f"{'what is held out of the training set' if options.held_out else 'the validation set'}, in nats per character"
    )
    runs = {name: Run(name, ids, options.seed) for name in options.only}
    while unfinished := [run for run in runs.values() if run.done < run.steps]:
        min(unfinished, key=lambda run: run.done / run.steps).advance()
    print(f"{'recipe':<27} parameters  steps  seconds  ratio  CPU seconds  ratio   loss")
    base = next(iter(runs.values()))
    for name, run in runs.items():
        check_causal(run.model.eval(), test)
        parameters = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
        times = f"{run.wall:>9.1f}{run.wall / base.wall:>7.3f}{run.cpu:>13.1f}{run.cpu / base.cpu:>7.3f}"
        print(f"{name:<27}{parameters:>11,}{run.steps:>7,}{times}{evaluate(run.model, test):>7.3f}", flush=True)


if __name__ == "__main__":
    main()
