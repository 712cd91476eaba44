"""Train the small GPT-2 of the course: `python data/shakespeare-gpt2/train.py`.

The tokenizer is trained first, then the model, both on the first nine tenths of the text. The state of the run is
written every 300 steps to a checkpoint in the working folder. Ctrl-C stops the run and saves the model as it is; the
same command resumes from the checkpoint. Delete the checkpoint to start again.
"""

from pathlib import Path

import torch

import gptlib
from gptlib import checkpoint, live, pretrained

CHECKPOINT = Path("shakespeare-gpt2.checkpoint")
HELD_OUT = 30_000  # characters of the training set, evaluated during training instead of the validation set
VOCABULARY = 512
STEPS = 3_000

text = gptlib.load_text("shakespeare")
cut = int(0.9 * len(text))  # in characters, as everywhere in the course
train_text, val_text = text[:cut], text[cut:]
tokenizer = gptlib.BPETokenizer.train(train_text, VOCABULARY)
# From the middle: the end of the training set is of the same play as the validation set, so its loss would be lower.
middle = len(train_text) // 2
held_out_text = train_text[middle : middle + HELD_OUT]
held_out, val_ids = (torch.tensor(tokenizer.encode(part)) for part in (held_out_text, val_text))
rest = [tokenizer.encode(part) for part in (train_text[:middle], train_text[middle + HELD_OUT :])]

torch.manual_seed(1337)
config = gptlib.GPTConfig(VOCABULARY, context_length=256, n_layer=6, n_head=4, n_embd=192, dropout=0.2)
model = gptlib.GPT(config)
for block in model.blocks:
    block.attention.attend.dropout = 0.0  # on a CPU the fused kernel has no dropout, and others take twice as long
save, show = checkpoint.Saver(CHECKPOINT, resume=CHECKPOINT.is_file()), live.progress()


def on_step(run):
    save(run)
    show(run)


history = gptlib.train(
    model,
    torch.tensor(rest[0] + rest[1]),
    held_out,
    steps=STEPS,
    batch_size=16,
    learning_rate=2e-3,
    warmup_steps=200,
    weight_decay=0.3,
    seed=1337,
    eval_every=STEPS // 10,
    mixed_precision=True,
    on_step=on_step,
)
pretrained.save_gpt2(model, Path(__file__).parent, tokenizer)


def nats_per_character(ids: torch.Tensor, text: str) -> float:
    """The total loss on `ids` per character of `text`; the first token is not predicted."""
    return gptlib.evaluate(model, ids) * (len(ids) - 1) / (len(text) - len(tokenizer.decode(ids[:1])))


print(f"{len(history.train):,} steps in {history.seconds:.0f} s")
print(f"{nats_per_character(held_out, held_out_text):.4f} nats per character on the held-out part of the training set")
print(f"{nats_per_character(val_ids, val_text):.4f} nats per character on the validation set")
