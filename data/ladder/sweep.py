"""The runs behind the ladder of notebook 07: `python data/ladder/sweep.py` prints the table of the card.

Each model is trained with two learning rates and two seeds, everything else being equal. All runs together take about
eight minutes of one core; `python data/ladder/sweep.py "GPT, one block" 0.02` does those of one model and one rate.
"""

import sys

import torch
from torch import nn

import gptlib

STEPS, BATCH, T, C = 1800, 16, 64, 64
RATES, SEEDS = (0.01, 0.02), (0, 1)

text = gptlib.load_text("shakespeare")
tokenizer = gptlib.CharTokenizer(text)
train_ids, val_ids = gptlib.train_val_split(tokenizer.encode(text))
V = tokenizer.vocab_size


class OneLayer(nn.Module):
    """idx (B, T) -> logits (B, T, V): embeddings, one layer of attention, output layer."""

    def __init__(self, attention):
        super().__init__()
        self.token_embedding = nn.Embedding(V, C)
        self.position_embedding = nn.Embedding(T, C)
        self.attention = attention
        self.lm_head = nn.Linear(C, V)

    def forward(self, idx):
        positions = torch.arange(idx.shape[1], device=idx.device)
        return self.lm_head(self.attention(self.token_embedding(idx) + self.position_embedding(positions)))


def gpt(n_layer):
    model = gptlib.GPT(gptlib.GPTConfig(vocab_size=V, context_length=T, n_layer=n_layer, n_head=4, n_embd=C))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= (768 / C) ** 0.5  # from the width of GPT-2 to this one
    return model


MODELS = {
    "bigram": lambda: gptlib.BigramLM(V),
    "one head": lambda: OneLayer(gptlib.Head(C, C)),
    "four heads": lambda: OneLayer(gptlib.MultiHeadAttention(C, 4)),
    "GPT, one block": lambda: gpt(1),
    "GPT, three blocks": lambda: gpt(3),
}


def run(name, rate, seed):
    """Train one model; returns the history, evaluated on a part of the validation set, and the loss on all of it."""
    torch.manual_seed(seed)
    model = MODELS[name]()
    settings = {"steps": STEPS, "batch_size": BATCH, "context_length": T, "warmup_steps": 100, "eval_every": STEPS // 8}
    history = gptlib.train(model, train_ids, val_ids[:20_000], learning_rate=rate, seed=seed, **settings)
    return history, gptlib.evaluate(model, val_ids, context_length=T)


names = sys.argv[1:2] or list(MODELS)
rates = [float(rate) for rate in sys.argv[2:3]] or RATES
for name in names:
    for rate in rates:
        runs = [run(name, rate, seed) for seed in SEEDS]
        print(f"| {name} | {rate} | {' | '.join(f'{loss:.3f}' for _, loss in runs)} |", flush=True)
        for seed, (history, _) in zip(SEEDS, runs):
            print(f"  seed {seed}:", *[f"{loss:.3f}" for _, loss in history.val[1:]], flush=True)
