"""The runs of notebook 17 in which induction is learned or not: `python data/induction/sweep.py` writes runs.json.

Attention-only models predict random letters that repeat with a random period: with one layer and two, with blocks of up
to 16 and up to 32 letters, with little weight decay, without position embeddings, and with a loss of every position.
With one core, all runs together take about 5 CPU minutes. Runs that are in the file are not repeated.

B batch · T positions · V vocabulary · H heads
"""

import json
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from gptlib import probe
from gptlib.attention import MultiHeadAttention
from gptlib.files import atomic_write

FILE = Path(__file__).with_name("runs.json")
C, H, BATCH, RATE, DECAY, EVERY, SEEDS = 64, 4, 64, 5e-3, 2.0, 10, range(5)
BASE = {"layers": 2, "block": 16, "vocab": 26, "steps": 300, "decay": DECAY, "positions": True, "repeats_only": True}
LONG = {"block": 32, "vocab": 52, "steps": 400}  # twice the letters: each occurs as often in a block
RUNS = {
    "two layers": {},
    "one layer": {"layers": 1},
    "two layers, blocks of 32": LONG,
    "one layer, blocks of 32": {"layers": 1, **LONG},
    "two layers, weight decay 0.01": {"decay": 0.01},
    "two layers, no positions": {"positions": False},
    "two layers, loss of every position": {"repeats_only": False},
}


class AttentionOnly(nn.Module):
    """The model of the page. Without `positions`, nothing but the causal mask depends on the order."""

    def __init__(self, n_layer, block=16, V=26, positions=True):
        super().__init__()
        self.token_embedding, self.position_embedding = nn.Embedding(V, C), nn.Embedding(2 * block, C)
        self.layers = nn.ModuleList(MultiHeadAttention(C, H) for _ in range(n_layer))
        self.norm = nn.LayerNorm(C, elementwise_affine=False)
        self.lm_head = nn.Linear(C, V, bias=False)
        for table in (self.token_embedding, self.position_embedding):
            nn.init.normal_(table.weight, std=0.2)
        if not positions:
            self.position_embedding.weight.data.zero_()
            self.position_embedding.weight.requires_grad_(False)

    def forward(self, idx):
        """idx (B, T) -> logits (B, T, V)"""
        x = self.token_embedding(idx) + self.position_embedding.weight[: idx.shape[1]]  # (B, T, C)
        for attention in self.layers:
            x = x + attention(self.norm(x))
        return self.lm_head(self.norm(x))


def repeated(n, block, V):
    """n sequences of random letters with a period from block / 2 to block: idx (n, 2 block), period (n, 1)"""
    letters, period = torch.randint(V, (n, block)), torch.randint(block // 2, block + 1, (n, 1))
    return letters.gather(1, torch.arange(2 * block) % period), period


def weight_at(weights, distance, start):
    """Attention weights (B, H, T, T) -> (H,): the mean weight `distance` positions back, for queries from `start` on"""
    return weights.diagonal(-distance, dim1=-2, dim2=-1)[..., start - distance :].mean(dim=(0, -1))


@torch.no_grad()
def measure(model, idx, block, *ablated):
    """idx (B, 2 block), a block twice -> loss of the second; per layer, weight one back in the first, induction"""
    with probe.ablate(model, *ablated), probe.attention(model) as maps:
        logits = model(idx)
    loss = F.cross_entropy(logits[:, block:-1].flatten(0, 1), idx[:, block + 1 :].flatten()).item()
    one_back = [weight_at(w[..., :block, :block], 1, 1) for w in maps]
    return loss, one_back, [weight_at(w, block - 1, block) for w in maps]


def run(name, seed):
    """Train one model -> what runs.json holds of it."""
    s = BASE | RUNS[name]
    block = s["block"]
    torch.manual_seed(seed)
    test = torch.randint(s["vocab"], (128, block)).repeat(1, 2)
    model = AttentionOnly(s["layers"], block, s["vocab"], s["positions"])
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.98), weight_decay=s["decay"])
    curve, start = [], time.process_time()
    for step in range(s["steps"] + 1):
        if step % EVERY == 0:
            loss, one_back, induction = measure(model, test, block)
            best = one_back[0].max().item(), induction[-1].max().item()
            curve.append([step, *(round(value, 3) for value in (loss, *best))])
        idx, period = repeated(BATCH, block, s["vocab"])
        counts = torch.arange(2 * block - 1) >= (period if s["repeats_only"] else 0)  # (B, T)
        loss = F.cross_entropy(model(idx[:, :-1])[counts.expand(BATCH, -1)], idx[:, 1:][counts.expand(BATCH, -1)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = {"name": name, "seed": seed, "seconds": round(time.process_time() - start, 1), "curve": curve}
    if s["layers"] == 2:
        loss, one_back, induction = measure(model, test, block)
        found["one_back"] = [round(value, 3) for value in one_back[0].tolist()]
        found["induction"] = [round(value, 3) for value in induction[1].tolist()]
        without = [measure(model, test, block, (0, head)) for head in range(H)]
        found["without"] = [[round(loss, 3), round(scores[1].max().item(), 3)] for loss, _, scores in without]
    return found


def main():
    torch.set_num_threads(1)
    runs = json.loads(FILE.read_text("utf-8")) if FILE.exists() else []
    done = {(one["name"], one["seed"]) for one in runs}
    for name in RUNS:
        for seed in SEEDS:
            if (name, seed) not in done:
                runs.append(run(name, seed))
                print(name, seed, runs[-1]["seconds"], runs[-1]["curve"][-1], runs[-1].get("without"), flush=True)
                text = "[\n" + ",\n".join(json.dumps(one) for one in runs) + "\n]\n"
                atomic_write(FILE, lambda path, text=text: path.write_text(text, "utf-8", newline="\n"))


if __name__ == "__main__":
    main()
