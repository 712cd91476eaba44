"""What each of SmolLM2's 270 heads is worth: `python data/smollm2-heads/sweep.py` writes heads.json beside it.

One head at a time is ablated (its output is replaced by zeros), and the loss is compared with that of the whole model:
on random tokens that are repeated, and on lines of Shakespeare's that are repeated. Layers before the head's are run
once for all. With one thread this takes about 4 CPU minutes.
"""

import json
from pathlib import Path

import torch
from torch.nn import functional as F

import gptlib
from gptlib import positions, pretrained, probe
from gptlib.files import atomic_write

FILE = Path(__file__).with_name("heads.json")
ROWS, PERIOD, SEED, SKIP = 3, 32, 1, 10_000  # SKIP: characters at the start of the validation set, which the page uses
NAMES = ("random tokens, repeated", "text, repeated", "text")


def repeated_rows(pieces):
    """ROWS rows of random tokens, then ROWS of text: idx (2 ROWS, 2 PERIOD), the second half equal to the first."""
    generator = torch.Generator().manual_seed(SEED)
    tokens = torch.randint(17, pieces.vocab_size, (ROWS, PERIOD), generator=generator)  # 0 to 16 are special tokens
    text = gptlib.load_text("shakespeare")
    unseen = pieces.encode(text[int(0.9 * len(text)) + SKIP :][:2000])[: ROWS * PERIOD]
    block = torch.cat([tokens, torch.tensor(unseen).view(ROWS, PERIOD)])
    return torch.cat([block, block], dim=1)


def losses(model, x, turn, start, idx):
    """The mean losses (random tokens repeated, text repeated, text) of x (B, T, C), the stream before layer `start`."""
    for block in model.blocks[start:]:
        x = block(x, turn)
    logits = model.lm_head(model.final_norm(x))[:, :-1]
    nats = F.cross_entropy(logits.flatten(0, 1), idx[:, 1:].flatten(), reduction="none").view(len(idx), -1)
    again, first = nats[:, PERIOD:], nats[:, : PERIOD - 1]  # the first token of the copy cannot be predicted: left out
    return torch.stack([again[:ROWS].mean(), again[ROWS:].mean(), first[ROWS:].mean()])


def table(found):
    """The heads with the largest effects on the copy of random tokens, as the card shows them."""
    first, again, text = (found[name] for name in NAMES)
    heads = [(layer, head) for layer, row in enumerate(first) for head in range(len(row))]
    heads.sort(key=lambda at: -first[at[0]][at[1]])
    shown = ([f"{round(part[i][h], 2) or 0.0:.2f}" for part in (first, again, text)] for i, h in heads[:16])
    rows = (f"| L{i}H{h} | " + " | ".join(row) + " |" for (i, h), row in zip(heads, shown))
    return "\n".join(["| head | " + " | ".join(NAMES) + " |", "|---|---|---|---|", *rows])


@torch.no_grad()
def main():
    model, pieces = pretrained.load("smollm2")
    idx, c = repeated_rows(pieces), model.config
    turn = positions.rotation(torch.arange(2 * PERIOD), c.n_embd // c.n_head, c.rotary_base)
    x = model.token_embedding(idx)
    whole, rises = losses(model, x, turn, 0, idx), torch.zeros(3, c.n_layer, c.n_head)
    for layer in range(c.n_layer):
        for head in range(c.n_head):
            with probe.ablate(model, (layer, head)):
                rises[:, layer, head] = losses(model, x, turn, layer, idx) - whole
        x = model.blocks[layer](x, turn)
        print(layer, [[round(rise, 2) for rise in row] for row in rises[:, layer].tolist()], flush=True)
    found = {"loss": dict(zip(NAMES, [round(loss, 3) for loss in whole.tolist()]))}
    found |= {name: [[round(rise, 3) for rise in row] for row in rows.tolist()] for name, rows in zip(NAMES, rises)}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(rows)}" for name, rows in found.items())
    atomic_write(FILE, lambda new: new.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8", newline="\n"))


if __name__ == "__main__":
    main()
