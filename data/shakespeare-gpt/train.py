"""Train the model that comes with the course: `python data/shakespeare-gpt/train.py`.

The state of the run is written every 200 steps to a checkpoint in the working folder. Ctrl-C stops the run and saves
the model as it is; the same command resumes from the checkpoint. Delete the checkpoint to start again.
"""

from pathlib import Path

import torch

import gptlib
from gptlib import checkpoint, live, muon

CHECKPOINT = Path("shakespeare-gpt.checkpoint")
HELD_OUT = 30_000  # characters of the training set, evaluated during training instead of the validation set
STEPS, AVERAGED = 6_000, 300  # the model is the mean of the parameters after each of the last steps

SETTINGS = {
    "steps": STEPS, "batch_size": 16, "learning_rate": 6e-3, "warmup_steps": 200, "weight_decay": 0.2, "seed": 1337,
    "eval_every": 400, "mixed_precision": True, "make_optimizer": muon.make_optimizer,
}  # fmt: skip

text = gptlib.load_text("shakespeare")
tokenizer = gptlib.CharTokenizer(text)
train_ids, val_ids = gptlib.train_val_split(tokenizer.encode(text))
# From the middle: the end of the training set is of the same play as the validation set, so its loss would be lower.
middle = len(train_ids) // 2
held_out = train_ids[middle : middle + HELD_OUT]
rest = torch.cat([train_ids[:middle], train_ids[middle + HELD_OUT :]])


def untrained() -> gptlib.GPT:
    torch.manual_seed(1337)
    config = gptlib.GPTConfig(vocab_size=65, context_length=256, n_layer=6, n_head=4, n_embd=192, dropout=0.2)
    model = gptlib.GPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= (768 / config.n_embd) ** 0.5  # GPT-2's initialization belongs to its width
    for block in model.blocks:
        block.attention.attend.dropout = 0.0  # on a CPU the fused kernel has no dropout, and others take twice as long
    return model


if __name__ == "__main__":
    model = untrained()
    average = torch.optim.swa_utils.AveragedModel(model)
    save, show = checkpoint.Saver(CHECKPOINT, every=200, resume=CHECKPOINT.is_file()), live.progress()

    def on_step(run):
        save(run)
        show(run)
        if len(run.history.train) > STEPS - AVERAGED:
            average.update_parameters(model)

    history = gptlib.train(model, rest, held_out, on_step=on_step, **SETTINGS)
    mean = average.module if average.n_averaged else model  # the run may have been stopped before the last steps
    print(f"{len(history.train):,} steps in {history.seconds:.0f} s")
    for name, trained in {"last step": model, "mean": mean}.items():
        loss = gptlib.evaluate(trained, held_out)
        print(f"{name}: {loss:.4f} nats per character on the held-out part of the training set")
    gptlib.pretrained.save(mean, tokenizer, Path(__file__).parent)
    print(f"mean: {gptlib.evaluate(mean, val_ids):.4f} nats per character on the validation set")
