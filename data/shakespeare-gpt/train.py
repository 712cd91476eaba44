"""Train the model that comes with the course: `python data/shakespeare-gpt/train.py`.

The state of the run is written every 400 steps to a checkpoint in the folder where this is started. Ctrl-C stops it and
saves the model as it is; the same command goes on from the checkpoint. Delete the checkpoint to begin anew.
"""

from pathlib import Path

import torch

import gptlib

CHECKPOINT = Path("shakespeare-gpt.checkpoint")
HELD_OUT = 30_000  # characters of the training part, watched in place of the validation part

text = gptlib.load("shakespeare")
tokenizer = gptlib.CharTokenizer(text)
train_ids, val_ids = gptlib.split(tokenizer.encode(text))
# From the middle: the end of the training part is of the same play as the validation part, and would flatter.
middle = len(train_ids) // 2
held_out = train_ids[middle : middle + HELD_OUT]
rest = torch.cat([train_ids[:middle], train_ids[middle + HELD_OUT :]])

torch.manual_seed(1337)
config = gptlib.GPTConfig(vocab_size=65, context_length=256, n_layer=6, n_head=4, n_embd=192, dropout=0.2)
model = gptlib.GPT(config)
for block in model.blocks:
    block.attention.attend.dropout = 0.0  # the fused kernel has none on a CPU: with it, a step takes twice as long
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
    checkpoint=CHECKPOINT,
    resume=CHECKPOINT.is_file(),
)
gptlib.pretrained.save(model, tokenizer, Path(__file__).parent)
print(f"{len(history.train):,} steps in {history.seconds:.0f} s")
print(f"{history.val[-1][1]:.4f} nats a character on the part held out")
print(f"{gptlib.evaluate(model, val_ids):.4f} on the validation part")
