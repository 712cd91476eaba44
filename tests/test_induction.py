"""The prepared models of notebook 17 that learn induction: their files, their detector, and the unknown model."""

import hashlib
import importlib.util

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from gptlib import probe
from gptlib.files import data_dir

FOLDER = data_dir() / "induction"
SPEC = importlib.util.spec_from_file_location("sweep", FOLDER / "sweep.py")
sweep = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(sweep)


@pytest.mark.parametrize("name", ["runs.json", "unknown.safetensors"])
def test_the_card_names_the_files_of_the_folder(name):
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() in (FOLDER / "README.md").read_text("utf-8")


def test_examples_repeat_with_their_period():
    idx, period = sweep.repeated(50, 16, 26)
    assert idx.shape == (50, 32) and {*range(8, 17)} >= {*period.flatten().tolist()} != {16}
    for row, p in zip(idx.tolist(), period.flatten().tolist()):
        assert row[p:] == row[:-p]


def test_weight_at_is_the_mean_of_the_weights_that_it_names():
    weights = torch.rand(2, 3, 8, 8)
    by_hand = [torch.stack([weights[:, h, t, t - 3] for t in range(4, 8)]).mean() for h in range(3)]
    torch.testing.assert_close(sweep.weight_at(weights, 3, 4), torch.stack(by_hand))


@torch.no_grad()
def test_the_unknown_model_is_what_the_check_takes_it_for():
    model = sweep.AttentionOnly(2).eval()
    model.load_state_dict(load_file(FOLDER / "unknown.safetensors"))
    idx = torch.randint(26, (128, 16), generator=torch.Generator().manual_seed(0)).repeat(1, 2)

    def loss(ahead, *heads):
        with probe.ablate(model, *heads):
            return F.cross_entropy(model(idx)[:, 16:-ahead].mT, idx[:, 16 + ahead :]).item()

    with probe.attention(model) as maps:
        model(idx)
    at = torch.stack([sweep.weight_at(maps[0][..., :16, :16], distance, distance) for distance in (1, 2, 3, 4)])
    losses = torch.tensor([loss(ahead) for ahead in (1, 2, 3, 4)])
    without = torch.tensor([loss(2, (0, head)) for head in range(4)])
    assert losses[1] < 0.6 and losses[[0, 2, 3]].min() > 5
    assert without[3] > 3 + losses[1] and (without[:3] - losses[1]).abs().max() < 0.1
    assert at[1, 3] > 0.8 and at[0, 0] > 0.95 and at[:, 1:3].max() < 0.2 and at[2:].max() < 0.2
    assert sweep.weight_at(maps[1], 14, 16).min() > 0.3
