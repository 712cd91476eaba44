"""Train the course's translation model, English to French: `python data/translator/train.py`.

The tokenizer is learned first, on both languages together, then the model. Whenever the loss on the validation set is
the lowest so far, the model is saved, so that Ctrl-C leaves the best one. A second cosine continues from
there: `--resume 36 --epochs 18 --rate 0.001 --seed 1`. `measure.py` then prints what the card says.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from torch.nn import functional as F

import gptlib
from gptlib import pretrained
from gptlib.encoder_decoder import EncoderDecoder, EncoderDecoderConfig, pad_ids
from gptlib.training import cosine_schedule, make_optimizer

FOLDER = Path(__file__).parent
SPECIAL = ("<pad>", "<start>", "<end>")
settings = argparse.ArgumentParser()
for name, value in {
    "vocabulary": 1500, "layers": 2, "heads": 4, "channels": 128, "dropout": 0.2, "smoothing": 0.1,
    "epochs": 36, "batch": 32, "rate": 0.002, "decay": 0.1, "seed": 0,
}.items():  # fmt: skip
    settings.add_argument(f"--{name}", type=type(value), default=value)
settings.add_argument("--resume", type=int, default=0, help="epochs done: continue from the model in the folder")
settings.add_argument("--out", type=Path, default=FOLDER)
s = settings.parse_args()

pairs = json.loads((FOLDER.parent / "en_fr" / "pairs.json").read_text(encoding="utf-8"))
both = "\n".join(f" {english}\n {french}" for english, french, _ in pairs["train"])
tokenizer = gptlib.BPETokenizer.train(both, s.vocabulary, SPECIAL)
pad, start, end = (s.vocabulary - 3 + i for i in range(3))


def encode(rows):
    """Each pair as ids; with a space in front, the first word has the same tokens as elsewhere."""
    return [
        (tokenizer.encode(" " + english), [start, *tokenizer.encode(" " + french), end]) for english, french, _ in rows
    ]


def batches(rows, size):
    """All rows in random batches of similar lengths, so that little is padding."""
    rows = random.sample(rows, len(rows))
    groups = [sorted(rows[i : i + 16 * size], key=lambda row: len(row[1])) for i in range(0, len(rows), 16 * size)]
    found = [group[i : i + size] for group in groups for i in range(0, len(group), size)]
    for batch in random.sample(found, len(found)):
        source, target = zip(*batch)
        yield pad_ids(source, pad), pad_ids(target, pad)


def loss(source, target, smoothing=0.0, reduction="mean"):
    """Cross-entropy of the target's tokens after the first, in nats per token; padding does not count."""
    logits = model(source, target[:, :-1]).flatten(0, 1)
    options = {"ignore_index": pad, "label_smoothing": smoothing, "reduction": reduction}
    return F.cross_entropy(logits, target[:, 1:].flatten(), **options)


@torch.no_grad()
def evaluate(rows):
    """Mean loss per token over all `rows`, without dropout."""
    model.eval()
    total = sum(loss(*batch, reduction="sum").item() for batch in batches(rows, 100))
    model.train()
    return total / sum(len(target) - 1 for _, target in rows)


train_rows, val_rows = encode(pairs["train"]), encode(pairs["validation"])
torch.manual_seed(s.seed)
random.seed(s.seed)
config = EncoderDecoderConfig(s.vocabulary, 64, s.layers, s.heads, s.channels, s.dropout, pad=pad, start=start, end=end)
model = EncoderDecoder(config)
if s.resume:
    model = pretrained.load(s.out)[0].train()
with torch.no_grad():  # the standard deviation of the start, from the width of GPT-2 to this one
    for parameter in model.parameters():
        if parameter.ndim == 2 and not s.resume:
            parameter *= (768 / s.channels) ** 0.5
for module in model.modules():
    if isinstance(module, gptlib.attention.Attend):
        module.dropout = 0.0  # on a CPU the fused kernel has no dropout, and others take longer
optimizer = make_optimizer(model, s.rate, s.decay)
steps = s.epochs * -(-len(train_rows) // s.batch)
step, best, begin = 0, evaluate(val_rows) if s.resume else float("inf"), time.process_time()
print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {steps:,} steps", flush=True)
for epoch in range(s.resume + 1, s.resume + s.epochs + 1):
    model.train()
    losses = []
    for source, target in batches(train_rows, s.batch):
        for group in optimizer.param_groups:
            group["lr"] = cosine_schedule(step, steps, s.rate, 400, 0.02 * s.rate)
        optimizer.zero_grad()
        value = loss(source, target, s.smoothing)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(value.item())
        step += 1
    val = evaluate(val_rows)
    print(f"| {epoch} | {sum(losses) / len(losses):.3f} | {val:.3f} | {time.process_time() - begin:.0f} |", flush=True)
    if val < best:
        best = val
        pretrained.save(model, tokenizer, s.out)
