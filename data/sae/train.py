"""Train the sparse autoencoder of notebook 17: `python data/sae/train.py`.

It learns to reconstruct the residual stream of shakespeare-gpt after layer 3 from a few directions, and writes
sae.safetensors beside this file. At the end, it prints how much it leaves unexplained on the validation set.

N activations · C channels · M latents
"""

import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import gptlib
from gptlib import pretrained, probe
from gptlib.files import atomic_write

FILE = Path(__file__).parent / "sae.safetensors"
LAYER, LATENTS, K = 3, 1024, 12
WINDOWS, STEPS, BATCH, RATE = 1_600, 3_000, 512, 2e-3


class SparseAutoencoder(nn.Module):
    """M latents, of which the k largest are used, if they are positive: the TopK autoencoder of Gao et al. 2024."""

    def __init__(self, C, M, k):
        super().__init__()
        self.k, self.center = k, nn.Parameter(torch.zeros(C))
        self.encoder, self.decoder = nn.Linear(C, M), nn.Linear(M, C, bias=False)

    def encode(self, x):
        """x (..., C) -> codes (..., M)"""
        top = self.encoder(x - self.center).topk(self.k)
        zeros = x.new_zeros(*x.shape[:-1], self.encoder.out_features)
        return zeros.scatter(-1, top.indices, top.values.relu())

    def decode(self, codes):
        """codes (..., M) -> x (..., C), approximately"""
        return self.decoder(codes) + self.center


@torch.no_grad()
def residual_stream(model, idx):
    """idx (N, T) -> the residual stream after LAYER (N, T, C)"""
    parts = []
    with probe.record(model, gptlib.model.Block) as layers:
        for part in idx.split(20):
            model(part)
            parts.append(layers[LAYER])
    return torch.cat(parts)


def unexplained(sae, x):
    """x (N, C) -> the fraction of variance unexplained by the reconstruction"""
    return (sae.decode(sae.encode(x)) - x).pow(2).sum() / (x - x.mean(dim=0)).pow(2).sum()


def train(x, seed):
    """x (N, C), centered and of unit variance -> a sparse autoencoder for it"""
    torch.manual_seed(seed)
    sae = SparseAutoencoder(x.shape[1], LATENTS, K)
    with torch.no_grad():  # at first, each latent writes what it reads: Gao et al. 2024
        nn.init.zeros_(sae.encoder.bias)
        sae.decoder.weight.copy_(nn.functional.normalize(torch.randn_like(sae.decoder.weight), dim=0))
        sae.encoder.weight.copy_(sae.decoder.weight.mT)
    optimizer = torch.optim.Adam(sae.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, 3 * (1 - step / STEPS)))
    for step in range(STEPS):
        batch = x[torch.randint(len(x), (BATCH,))]
        loss = (sae.decode(sae.encode(batch)) - batch).pow(2).sum(dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():  # directions of length 1, so that the codes say how much is written
            sae.decoder.weight.div_(sae.decoder.weight.norm(dim=0))
        if step % 500 == 0:
            print(f"step {step}: {unexplained(sae, batch):.3f} unexplained, {time.process_time():.0f} s", flush=True)
    return sae


def main():
    model, tokenizer = pretrained.load("shakespeare-gpt")
    train_ids, val_ids = gptlib.train_val_split(tokenizer.encode(gptlib.load_text("shakespeare")))
    T = model.config.context_length
    starts = torch.linspace(0, len(train_ids) - T, WINDOWS).long()
    x = residual_stream(model, train_ids[starts[:, None] + torch.arange(T)]).flatten(0, 1)
    mean = x.mean(dim=0)
    scale = (x - mean).pow(2).mean().sqrt()
    print(f"{len(x):,} activations, {time.process_time():.0f} s", flush=True)
    sae = train((x - mean) / scale, seed=0)
    with torch.no_grad():  # from now on for the stream itself
        sae.center.mul_(scale).add_(mean)
        sae.encoder.bias.mul_(scale)
    weights = {name: value.detach().half().contiguous() for name, value in sae.state_dict().items()}
    atomic_write(FILE, lambda path: save_file(weights, path))
    sae.load_state_dict(weights)
    held_out = residual_stream(model, val_ids[: 100 * T].view(-1, T)).flatten(0, 1)
    with torch.no_grad():
        dead = (sae.encode(held_out).amax(dim=0) == 0).sum()
        print(
            f"validation: {unexplained(sae, held_out):.3f} unexplained, {dead} of {LATENTS} dead in {len(held_out):,}"
        )
    print(f"{time.process_time():.0f} CPU seconds")


if __name__ == "__main__":
    main()
