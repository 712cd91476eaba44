"""Train the model that comes with the course: `python data/shakespeare-gpt/train.py`.

The state of the run is written every 400 steps to a checkpoint in the working folder. Ctrl-C stops the run and saves
the model as it is; the same command resumes from the checkpoint. Delete the checkpoint to start again.
"""

from pathlib import Path

import torch

import gptlib
from gptlib import checkpoint, live

CHECKPOINT = Path("shakespeare-gpt.checkpoint")
HELD_OUT = 30_000  # characters of the training set, evaluated during training instead of the validation set

text = gptlib.load_text("shakespeare")
tokenizer = gptlib.CharTokenizer(text)
train_ids, val_ids = gptlib.train_val_split(tokenizer.encode(text))
# From the middle: the end of the training set is of the same play as the validation set, so its loss would be lower.
middle = len(train_ids) // 2
held_out = train_ids[middle : middle + HELD_OUT]
rest = torch.cat([train_ids[:middle], train_ids[middle + HELD_OUT :]])

torch.manual_seed(1337)
config = gptlib.GPTConfig(vocab_size=65, context_length=256, n_layer=6, n_head=4, n_embd=192, dropout=0.2)
model = gptlib.GPT(config)
for block in model.blocks:
    block.attention.attend.dropout = 0.0  # on a CPU the fused kernel has no dropout, and others take twice as long
save, show = checkpoint.Saver(CHECKPOINT, resume=CHECKPOINT.is_file()), live.progress()


def on_step(run):
    save(run)
    show(run)


history = gptlib.train(
    model,
    rest,
    held_out,
    steps=5_600,
    batch_size=16,
    learning_rate=2e-3,
    warmup_steps=200,
    weight_decay=0.3,
    seed=1337,
    eval_every=400,
    mixed_precision=True,
    on_step=on_step,
)
gptlib.pretrained.save(model, tokenizer, Path(__file__).parent)
print(f"{len(history.train):,} steps in {history.seconds:.0f} s")
print(f"{history.val[-1][1]:.4f} nats per character on the held-out part of the training set")
print(f"{gptlib.evaluate(model, val_ids):.4f} nats per character on the validation set")
