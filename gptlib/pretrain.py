"""Pretraining on shards of tokens, in one process or many: `python -m gptlib.pretrain CONFIG [section.key=value …]`.

    python -m gptlib.pretrain shakespeare training.steps=100
    torchrun --nproc-per-node=8 --max-restarts=3 -m gptlib.pretrain gpt2-124m-8gpus

CONFIG is a TOML file, or the name of one in gptlib/configs; `settings` has what may stand in it. The rules:

- The seed orders the windows: each epoch is a permutation of all of them. Step s takes windows sB … (s + 1)B - 1 of
  that order, and each process an equal slice of these. Dropout depends on the seed, the step and the process. So there
  is no state of random numbers to save, and any number of processes sees the same windows in the same order.
- Checkpoints are written atomically into run.folder, which all processes must see, and a run continues from the newest
  complete one: with as many processes bit for bit on a CPU; on a GPU, some kernels add in an order that varies.
  [model], [training] and the shards must be the same; [run] may change, and then only rounding differs, and the masks
  of dropout. Two runs at once need two folders.
- SIGTERM and Ctrl-C end all processes after the step, with a checkpoint. When one dies, torchrun starts all again. It
  waits 30 s before it kills a process that it has told to end: for longer steps, pass it --shutdown-timeout.

B windows per step, of all processes · T positions
"""

import argparse
import math
import os
import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import fsdp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.rendezvous import rendezvous
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from gptlib import checkpoint, muon, pretrained, training
from gptlib.files import atomic_write
from gptlib.sampling import evaluating
from gptlib.scaling import flops_per_token, peak_flops
from gptlib.settings import Config, check_identity, read_config
from gptlib.shards import Shards, load_tokenizer

COLUMNS = "step,tokens,loss,val_loss,learning_rate,gradient_norm,tokens_per_second,mfu,seconds"
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)  # gathered from all processes, for process 0
ADVICE = "the checkpoints so far are good. Try a lower training.learning_rate or more training.warmup_steps"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m gptlib.pretrain", description="Train a GPT on shards of tokens.")
    parser.add_argument("config", help="a TOML file, or the name of one in gptlib/configs")
    parser.add_argument("changes", nargs="*", metavar="section.key=value", help="settings instead of those in the file")
    given = parser.parse_args(arguments)
    end: str | int | None = None
    try:
        config = read_config(given.config, given.changes)
        Trainer(config, start_processes(config.run.device)).run()
    except (ArithmeticError, KeyboardInterrupt, OSError, ValueError) as error:
        rank, said = os.environ.get("LOCAL_RANK", "0"), str(error) or "interrupted before the first step"
        end = f"{parser.prog}, process {rank}: {said}"
        if rank == "0" or not isinstance(error, OSError):  # what is wrong with the settings, one process says
            end = f"{parser.prog}: {said}" if rank == "0" else 1
    if distributed.is_initialized():  # only now is the Trainer gone: it may hang if it goes after the processes' group
        distributed.destroy_process_group()
    sys.exit(end)


def start_processes(kind: str) -> torch.device:
    """Join the processes that torchrun started, or be the only one; each has a GPU of its own, or all share the CPU."""
    gpus, here = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    kind = kind if kind != "auto" else "cuda" if gpus else "cpu"
    if kind == "cuda" and gpus < here or kind == "mps" and (here > 1 or not torch.backends.mps.is_available()):
        raise ValueError(f"run.device={kind} does not fit {here} processes and {gpus} CUDA GPUs: try run.device=cpu")
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if kind == "cuda" else kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    store, rank, size = next(rendezvous("env://")) if "RANK" in os.environ else (distributed.HashStore(), 0, 1)
    # After a restart by torchrun, the store may still hold the addresses of the processes that have died.
    store = distributed.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    return device


def total(*values: float) -> list[float]:
    """Each value summed over all processes."""
    sums = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(sums)
    return sums.tolist()


@lru_cache(maxsize=2)
def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(Random(f"order {seed} {epoch}").getrandbits(32))
    return torch.randperm(n, generator=generator, dtype=torch.int32)


def windows(start: int, end: int, n: int, seed: int) -> list[int]:
    """The windows `start` … `end` - 1 of the run, as numbers below n."""
    return [int(epoch_order(n, seed, i // n)[i % n]) for i in range(start, end)]


def cut_log(path: Path, step: int) -> None:
    """Keep the complete rows of the first `step` steps."""
    rows = path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else []
    rows = [row for row in rows if row.count(",") == COLUMNS.count(",") and int(row.split(",")[0]) <= step]
    atomic_write(path, lambda new: new.write_text("\n".join([COLUMNS, *rows, ""]), encoding="utf-8"))


class Trainer:
    """One process of a run: its model, optimizer and data. Raises ValueError when they do not fit the settings."""

    def __init__(self, config: Config, device: torch.device):
        self.config, self.device, c, run = config, device, config.training, config.run
        self.rank, self.size, self.T = distributed.get_rank(), distributed.get_world_size(), config.model.context_length
        self.share, self.folder = config.share(self.size), Path(run.folder)  # the share: windows per step
        self.identity = config.identity()
        self.train, self.val = (Shards(run.shards, name, verify=self.rank == 0) for name in ("train", "val"))
        self.n = self.train.n_windows(self.T)
        if self.n < 1 or self.val.n_tokens < 2:
            raise ValueError(f"{run.shards} needs a window of {self.T + 1} tokens to train on, and a validation set")
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(c.seed)
        self.model = self.network = pretrained.MODELS[type(config.model)](config.model).to(device)
        if run.compile:
            for part in self.model.blocks if run.parallel == "fsdp" else [self.model]:
                part.compile()
        if run.parallel == "fsdp":
            mesh = distributed.init_device_mesh(device.type, (self.size,))
            for part in [*self.model.blocks, self.model]:
                fsdp.fully_shard(part, mesh=mesh)  # of PyTorch 2.6 or newer
        elif self.size > 1:
            self.network = DistributedDataParallel(self.model)
        make_optimizer = muon.make_optimizer if c.optimizer == "muon" else training.make_optimizer
        self.optimizer = make_optimizer(self.model, c.learning_rate, c.weight_decay)
        self.dtype = torch.bfloat16 if c.precision == "bfloat16" else torch.float32
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)
        with self.autocast:  # one pass is dropped: DDP adds in another order after its first one, and stays with that
            self.network(self.train.batch([0] * run.micro_batch, self.T)[0].to(device)).sum().backward()
        self.optimizer.zero_grad()

    def run(self) -> None:
        """Train to the end and save the model. Raises KeyboardInterrupt after a signal, and FloatingPointError."""
        c, run, stop = self.config.training, self.config.run, []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: stop.append(number))
        begun, seconds = self.resume()
        log = self.folder / "log.csv"
        if self.rank == 0:
            cut_log(log, begun)
        bar = tqdm(total=c.steps, initial=begun, unit="step", mininterval=1, disable=self.rank > 0)
        tokens, floor = c.batch_size * self.T, c.final_fraction * c.learning_rate
        flops, (peak,) = tokens * flops_per_token(self.config.model), total(peak_flops(self.device, self.dtype))
        for step in range(begun, c.steps):
            start = time.perf_counter()
            loss = self.gradients(step)
            norm: Any = nn.utils.clip_grad_norm_(self.model.parameters(), c.clip)
            norm = (norm.full_tensor() if hasattr(norm, "full_tensor") else norm).item()
            if not math.isfinite(loss + norm):
                raise FloatingPointError(f"the loss or its gradient is not finite at step {step}: {ADVICE}")
            rate = training.cosine_schedule(step, c.steps, c.learning_rate, c.warmup_steps, floor)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.optimizer.zero_grad()
            stopped, step, took = any(total(len(stop))), step + 1, time.perf_counter() - start
            if stopped:  # before anything that takes long
                self.save(step, seconds + took)
            val_loss = f"{self.evaluate():.6f}" if step % run.eval_every == 0 or step == c.steps else ""
            seconds += time.perf_counter() - start
            if self.rank == 0:
                speed, mfu = tokens / took, flops / took / peak
                row = [step, step * tokens, f"{loss:.6f}", val_loss, f"{rate:.6g}", f"{norm:.6f}"]
                with log.open("a", encoding="utf-8") as file:
                    print(*row, f"{speed:.0f}", f"{mfu:.4f}", f"{seconds:.2f}", sep=",", file=file)
                bar.set_postfix_str(f"loss {loss:.3f} · {speed:,.0f} tokens/s · MFU {mfu:.1%}", refresh=False)
                bar.update()
            if not stopped and (step % run.save_every == 0 or step == c.steps):
                self.save(step, seconds)
            if stopped and step < c.steps:
                raise KeyboardInterrupt(f"stopped after step {step} of {c.steps}: the same command continues")
        self.save_model()
        bar.close()

    def gradients(self, step: int) -> float:
        """Compute the gradients of the step's batch, averaged over processes, and return its mean loss."""
        size, seed, loss = self.config.run.micro_batch, self.config.training.seed, torch.zeros((), device=self.device)
        torch.manual_seed(Random(f"dropout {seed} {step} {self.rank}").getrandbits(32))
        first = (step * self.size + self.rank) * self.share
        for start in range(first, first + self.share, size):
            x, y = self.train.batch(windows(start, start + size, self.n, seed), self.T)
            last = start + size == first + self.share  # only then do processes exchange what their gradients add up to
            if self.config.run.parallel == "fsdp":
                self.network.set_requires_gradient_sync(last)
            with nullcontext() if last or self.network is self.model else self.network.no_sync():
                with self.autocast:
                    part = training.next_token_loss(self.network(x.to(self.device)), y.to(self.device))
                part = part * size / self.share  # every window has T predictions, so the mean of means is the mean
                part.backward()
            loss += part.detach()
        return total(loss.item() / self.size)[0]

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean loss of the validation set, each prediction once; processes take turns with batches of one shape.

        What follows a shard's last window makes a shorter row, filled up with targets of -100, which do not count.
        """
        size, n, tails, sums = self.config.run.micro_batch, self.val.n_windows(self.T), self.val.tails(self.T), [0.0, 0]
        rows = n + len(tails)
        with evaluating(self.network):
            for start in range(size * self.rank, size * self.rank + rows, size * self.size):
                x, y = torch.zeros(size, self.T, dtype=torch.long), torch.full((size, self.T), -100)
                for row, i in enumerate(range(start, min(start + size, rows))):
                    inputs, targets = self.val.batch([i], self.T) if i < n else (tails[i - n][:-1], tails[i - n][1:])
                    x[row, : inputs.numel()], y[row, : inputs.numel()] = inputs.flatten(), targets.flatten()
                with self.autocast:
                    logits = self.network(x.to(self.device))
                losses = F.cross_entropy(logits.flatten(0, 1).float(), y.to(self.device).flatten(), reduction="sum")
                sums = [sums[0] + losses.item(), sums[1] + int((y >= 0).sum())]
        loss, predictions = total(*sums)
        return loss / predictions

    def save(self, step: int, seconds: float) -> None:
        """Write a checkpoint and delete the oldest; raises FloatingPointError before it would write a useless one."""
        state: Any = dict(zip(("model", "optimizer"), get_state_dict(self.model, self.optimizer, options=WHOLE)))
        if any(total(not all(parameter.isfinite().all() for parameter in state["model"].values()))):
            raise FloatingPointError(f"a parameter is not finite after step {step}: {ADVICE}")
        if self.rank == 0:
            state |= {"settings": self.identity, "seconds": seconds}
            atomic_write(self.folder / f"step-{step:08}.pt", lambda new: torch.save(state, new))
            for old in sorted(self.folder.glob("step-*.pt"))[: -self.config.run.keep]:
                old.unlink()

    def resume(self) -> tuple[int, float]:
        """Continue from the newest complete checkpoint; its step and seconds. Raises ValueError for another run's."""
        path = checkpoint.newest(self.folder) if self.rank == 0 else None
        (step,) = total(int(path.stem.removeprefix("step-")) if path else 0)  # process 0 has chosen for all
        if step == 0:
            return 0, 0.0
        path = self.folder / f"step-{int(step):08}.pt"
        state = torch.load(path, map_location="cpu", weights_only=True)
        check_identity(self.identity, state["settings"], path)
        both = {"model_state_dict": state["model"], "optim_state_dict": state["optimizer"]}
        set_state_dict(self.model, self.optimizer, **both, options=StateDictOptions(full_state_dict=True))
        return int(step), state["seconds"]

    @torch.no_grad()
    def save_model(self) -> None:
        """Write the model for `pretrained.load(run.folder)`, without the rows of the vocabulary that are no tokens."""
        weights: Any = get_state_dict(self.model, (), options=WHOLE)[0]
        if self.rank == 0:
            tokenizer = load_tokenizer(self.config.run.shards)
            sizes = replace(self.config.model, vocab_size=tokenizer.vocab_size)
            model = pretrained.MODELS[type(sizes)](sizes)
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name][: len(parameter)])
            pretrained.save(model, tokenizer, self.folder)
            tqdm.write(f"the model is in {self.folder}: pretrained.load({str(self.folder)!r}) reads it")


if __name__ == "__main__":
    main()
