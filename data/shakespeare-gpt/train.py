"""Train the model that comes with the course: `python data/shakespeare-gpt/train.py`.

The state of the run is written every 500 steps to a checkpoint in the folder where this is started. Ctrl-C stops it and
saves the model as it is; the same command goes on from the checkpoint. Delete the checkpoint to begin anew.
"""

from pathlib import Path

import torch

import gptlib

CHECKPOINT = Path("shakespeare-gpt.checkpoint")

text = gptlib.load("shakespeare")
tokenizer = gptlib.CharTokenizer(text)
train_ids, val_ids = gptlib.split(tokenizer.encode(text))

torch.manual_seed(1337)
config = gptlib.GPTConfig(vocab_size=tokenizer.vocab_size, context_length=256, n_layer=6, n_head=4, n_embd=192)
model = gptlib.GPT(config)
history = gptlib.train(
    model,
    train_ids,
    val_ids,
    steps=5_000,
    batch_size=16,
    learning_rate=2e-3,
    warmup_steps=200,
    seed=1337,
    eval_every=500,
    mixed_precision=True,
    checkpoint=CHECKPOINT,
    resume=CHECKPOINT.is_file(),
)
gptlib.pretrained.save(model, tokenizer, Path(__file__).parent)
loss = gptlib.evaluate(model, val_ids)
print(f"{len(history.train):,} steps in {history.seconds:.0f} s; {loss:.4f} nats a character on the validation part")
