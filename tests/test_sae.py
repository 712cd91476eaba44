"""The sparse autoencoder of notebook 17, against its definition, one position at a time, and a planted dictionary."""

import hashlib
import importlib.util
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from gptlib import data, pretrained

FOLDER = Path(__file__).resolve().parents[1] / "data" / "sae"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_sae", FOLDER / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shipped(script):
    sae = script.SparseAutoencoder(192, script.LATENTS, script.K)
    sae.load_state_dict(load_file(FOLDER / "sae.safetensors"))
    return sae.requires_grad_(False)


@pytest.fixture(scope="module")
def activations(script):
    """The residual stream on 16 windows of the validation set (4096, 192)."""
    model, tokenizer = pretrained.load("shakespeare-gpt")
    _, val_ids = data.train_val_split(tokenizer.encode(data.load_text("shakespeare")))
    return script.residual_stream(model, val_ids[: 16 * 256].view(16, 256)).flatten(0, 1)


def test_the_reconstruction_is_a_sum_of_the_largest_latents(shipped, activations):
    weights, bias = shipped.encoder.weight, shipped.encoder.bias
    for x in activations[::512]:
        numbers = {m: (weights[m] @ (x - shipped.center) + bias[m]).item() for m in range(len(bias))}
        kept = {m: n for m, n in sorted(numbers.items(), key=lambda item: -item[1])[:12] if n > 0}
        codes = shipped.encode(x)
        assert codes.nonzero().flatten().tolist() == sorted(kept)
        expected = shipped.center + sum(n * shipped.decoder.weight[:, m] for m, n in kept.items())
        torch.testing.assert_close(shipped.decode(codes), expected, rtol=1e-4, atol=1e-3)


def test_negative_numbers_are_no_codes(script):
    sae = script.SparseAutoencoder(2, 3, 2)
    sae.load_state_dict(
        {
            "center": torch.tensor([1.0, 0.0]),
            "encoder.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]),
            "encoder.bias": torch.tensor([-0.5, 0.0, -1.0]),
            "decoder.weight": torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, -1.0]]),
        }
    )
    assert sae.encode(torch.tensor([[3.0, 2.0], [1.0, -3.0]])).tolist() == [[1.5, 2.0, 0.0], [0.0, 0.0, 2.0]]


def test_the_shipped_weights_are_those_of_the_card(shipped, activations):
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256((FOLDER / "sae.safetensors").read_bytes()).hexdigest() in card
    rebuilt = shipped.decode(shipped.encode(activations))
    error, spread = (rebuilt - activations).square().sum(), (activations - activations.mean(0)).square().sum()
    assert abs(error / spread - float(re.search(r"unexplained[^|]*\| \*\*(0\.\d+)\*\*", card)[1])) < 0.01
    torch.testing.assert_close(shipped.decoder.weight.norm(dim=0), torch.ones(1024), rtol=0, atol=1e-3)


def test_training_finds_a_planted_dictionary(script, monkeypatch):
    """24 random directions in 16 dimensions, two of which are added at a time."""
    for name, value in {"LATENTS": 48, "K": 2, "STEPS": 800, "BATCH": 128, "RATE": 1e-2}.items():
        monkeypatch.setattr(script, name, value)
    generator = torch.Generator().manual_seed(0)
    planted = F.normalize(torch.randn(24, 16, generator=generator), dim=1)
    present = torch.rand(4000, 24, generator=generator).topk(2).indices
    x = torch.zeros(4000, 24).scatter(1, present, 1 + torch.rand(4000, 2, generator=generator)) @ planted
    x -= x.mean(dim=0)
    sae = script.train(x / x.square().mean().sqrt(), seed=0)
    found = planted @ sae.decoder.weight.detach()  # cosines
    untrained = planted @ F.normalize(torch.randn(16, 48, generator=generator), dim=0)
    assert untrained.amax(dim=1).max() < 0.8 and found.amax(dim=1).min() > 0.95


def test_two_capitals_in_a_row_stand_in_the_names_of_speakers():
    """What notebook 17 says of the characters on which it scores the latents."""
    text = data.load_text("shakespeare")
    start = int(0.9 * len(text))
    text = text[start : start + 80 * 256]
    in_names = sum(len(re.findall("(?=[A-Z]{2})", name)) for name in re.findall(r"(?:^|\n\n)([A-Z ]+):", text))
    assert in_names > 0.99 * len(re.findall("(?=[A-Z]{2})", text)) > 1000
