"""The heads of the trained model while it learns: `python data/shakespeare-gpt/watch.py FOLDER` writes training.json.

Runs the first 1,000 of the 6,000 steps of train.py again, with the same settings and seed, and keeps the parameters at
some steps in FOLDER. Then measures these models and, as the last one, the model that comes with the course: the
validation loss, the detectors of notebook 17 for every head, and the attention maps of the passage. The maps of two
models with a single attention layer, as in notebooks 04 and 05, and of two heads of SmolLM2 are beside them.
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from train import SETTINGS, held_out, rest, tokenizer, untrained, val_ids

import gptlib
from gptlib import live, probe
from gptlib.files import atomic_write

KEPT = (0, 10, 20, 30, 50, 70, 100, 140, 200, 300, 400, 500, 600, 700, 850, 1_000)
DRAWN = (0, 30, 100, 200, 300, 500, 700, 1_000)  # of these steps, and of the trained model, the maps are stored
PASSAGE = "To be, or not to be"


class Enough(Exception):
    """The last of the steps is done."""


def train(folder: Path) -> None:
    def keep(run):
        done = len(run.history.train)
        if done in KEPT:
            gptlib.pretrained.save(run.model, tokenizer, folder / f"step-{done}")
        if done == KEPT[-1]:
            raise Enough

    try:
        gptlib.train(untrained(), rest, held_out, on_step=[live.progress(), keep], **SETTINGS)
    except Enough:
        pass


def detectors(idx: torch.Tensor) -> dict[str, torch.Tensor]:
    """For windows idx (B, T), the keys (B, T, T) whose weight each detector sums: at most one name per head."""
    t = torch.arange(idx.shape[1])
    letter = torch.tensor([c.isalpha() for c in tokenizer.vocabulary])[idx]
    space, newline = (idx == tokenizer.encode(c)[0] for c in " \n")
    events = {
        "word start": letter & ~letter.roll(1, dims=1),
        "line start": newline.roll(1, dims=1),
        "last space": space,
    }
    back = t[:, None] - t  # (T, T): how far back a key is
    keys = {"one back": (back == 1).expand(len(idx), -1, -1), "two back": (back == 2).expand(len(idx), -1, -1)}
    keys["same letter"] = (idx[..., None] == idx[:, None]) & (back >= 3)
    for name, event in events.items():
        keys[name] = (torch.where(event, t, 0).cummax(dim=1).values[..., None] == t) & (back >= 3)
    return keys | {"first position": ((t == 0) & (back >= 1)).expand(len(idx), -1, -1)}


def mean_weight(weights: torch.Tensor, keys: torch.Tensor) -> list[float]:
    """weights (B, H, T, T) -> for each head, the weight on the marked keys, a mean over the queries that have any."""
    has = keys.any(dim=-1)[:, None]
    return ((weights * keys[:, None]).sum(dim=-1) * has).sum(dim=(0, 2)).div(has.sum()).tolist()


class OneLayer(nn.Module):
    """Embeddings, one attention layer with a skip connection, and an output layer: idx (B, T) -> logits (B, T, V)."""

    context_length = 32

    def __init__(self, attention: nn.Module):
        super().__init__()
        self.token_embedding, self.position_embedding = nn.Embedding(65, 64), nn.Embedding(self.context_length, 64)
        self.attention, self.lm_head = attention, nn.Linear(64, 65)

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        x = self.token_embedding(idx) + self.position_embedding(torch.arange(idx.shape[1]))
        return self.lm_head(x + self.attention(x))


def one_layer(n_head: int) -> OneLayer:
    torch.manual_seed(0)
    model = OneLayer(gptlib.Head(64, 64) if n_head == 1 else gptlib.MultiHeadAttention(64, n_head))
    gptlib.train(model, rest, steps=1500, context_length=32, learning_rate=5e-3)
    return model.eval()


def percents(weights: torch.Tensor) -> list[list[int]]:
    """weights (N, T, T) -> N lists of percents, row by row, each row up to the diagonal."""
    t = torch.tril_indices(*weights.shape[1:])
    return weights[:, t[0], t[1]].mul(100).round().int().tolist()


@torch.no_grad()
def measure(folder: Path) -> dict:
    idx = val_ids[: 20 * 256].view(20, 256)
    keys, passage = detectors(idx), torch.tensor([tokenizer.encode(PASSAGE)])
    found: dict[str, dict] = {"losses": {}, "scores": {name: {} for name in keys}, "maps": {}, "one layer": {}}
    for step in [*KEPT, "trained"]:
        name = "shakespeare-gpt" if step == "trained" else folder / f"step-{step}"
        if step != "trained" and not name.is_dir():
            continue
        model, _ = gptlib.pretrained.load(name)
        found["losses"][step] = round(gptlib.evaluate(model, val_ids), 3)
        with probe.attention(model) as maps:
            model(idx)
            for detector, marked in keys.items():
                found["scores"][detector][step] = [[round(w, 3) for w in mean_weight(layer, marked)] for layer in maps]
            model(passage)
        if step in DRAWN or step == "trained":
            found["maps"][step] = percents(torch.cat(maps, dim=1)[0])
        print(step, found["losses"][step], flush=True)
    for n_head in (1, 4):
        with torch.enable_grad():
            model = one_layer(n_head)
        with probe.attention(model) as maps:
            model(passage)
        found["one layer"][n_head] = percents(maps[0].view(-1, *maps[0].shape[-2:]))
    smol, pieces = gptlib.pretrained.load("smollm2")
    ids = pieces.encode(PASSAGE)
    with probe.attention(smol) as maps:
        smol(torch.tensor([ids]))
    found["smollm2"] = {"tokens": [pieces.decode([i]) for i in ids]}
    for layer, head in ((16, 0), (18, 6)):
        found["smollm2"][f"L{layer}H{head}"] = percents(maps[layer][0, head : head + 1])[0]
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if not (folder / f"step-{KEPT[-1]}").is_dir():
        train(folder)
    text = json.dumps(measure(folder), separators=(",", ":")) + "\n"
    atomic_write(Path(__file__).parent / "training.json", lambda file: file.write_text(text, encoding="utf-8"))
