"""Muon against PyTorch's Muon and AdamW, the singular value decomposition, and itself without the interruption."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from conftest import SMALL, stir
from gptlib.checkpoint import Saver
from gptlib.model import GPT, GPTConfig
from gptlib.muon import Muon, make_optimizer, orthogonalize
from gptlib.training import evaluate, train

TEXT = torch.randint(SMALL.vocab_size, (200,), generator=torch.Generator().manual_seed(1))
SHAPES = [(16, 16), (24, 8), (8, 24), (1, 5), (5, 1), (1, 1)]


def iterated(s, steps):
    """What the iteration makes of singular values, after the division by the norm."""
    for _ in range(steps):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    return s


def with_gradients(*shapes):
    """Parameters of these shapes, each with a random gradient."""
    parameters = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    return parameters


def steps_alike(ours, theirs, parameters, copies, **tolerance):
    """Both optimizers change their parameters alike, for six steps with the same gradients and rates."""
    for step in range(6):
        for parameter, copied in zip(parameters, copies, strict=True):
            copied.grad = parameter.grad = torch.randn_like(parameter)
        for group in [*ours.param_groups, *theirs.param_groups]:
            group["lr"] = 0.1 / (1 + step)
        ours.step()
        theirs.step()
        for parameter, copied in zip(parameters, copies, strict=True):
            torch.testing.assert_close(parameter, copied, **tolerance)


# --- orthogonalization --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_a_polynomial_of_the_singular_values(shape, steps):
    x = torch.randn(shape, dtype=torch.float64)
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    expected = u @ torch.diag(iterated(s / s.square().sum().sqrt(), steps)) @ vt
    torch.testing.assert_close(orthogonalize(x, steps), expected)
    torch.testing.assert_close(orthogonalize(x.float(), steps), expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(64, 64), (96, 32), (32, 96)])
def test_singular_values_over_two_orders_of_magnitude_come_near_1(shape):
    x = torch.randn(shape)
    u, _, vt = torch.linalg.svd(x, full_matrices=False)
    s = torch.linalg.svdvals(orthogonalize(u @ torch.diag(torch.logspace(-2, 0, min(shape))) @ vt * 300))
    assert 0.67 < s.min() < 0.75 and 1.1 < s.max() < 1.21


def test_a_matrix_of_two_rows_by_hand():
    """Divided by √(3² + 4²), its singular values are 0.6 and 0.8; one step turns them into 1.1933 and 0.9765."""
    found = orthogonalize(torch.tensor([[0.0, 4.0], [3.0, 0.0]], dtype=torch.float64), steps=1)
    big, small = (3.4445 * s - 4.775 * s**3 + 2.0315 * s**5 for s in (0.8, 0.6))
    assert found.flatten().tolist() == pytest.approx([0.0, big, small, 0.0])
    assert (round(big, 4), round(small, 4)) == (0.9765, 1.1933)


def test_a_rotation_is_only_scaled():
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    found = orthogonalize(5 * turn)
    torch.testing.assert_close(found, turn * iterated(torch.tensor(0.5**0.5), 5))


def test_a_stack_of_matrices_is_orthogonalized_one_by_one():
    x = torch.randn(3, 2, 12, 5)
    expected = torch.stack([torch.stack([orthogonalize(matrix) for matrix in row]) for row in x])
    torch.testing.assert_close(orthogonalize(x), expected)


def test_the_size_of_the_gradient_does_not_count_and_zero_stays_zero():
    x = torch.randn(6, 9)
    for size in (1e-4, 1e6):
        torch.testing.assert_close(orthogonalize(size * x), orthogonalize(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(orthogonalize(torch.zeros(6, 9)), torch.zeros(6, 9))


@pytest.mark.parametrize("shape", [(4, 32), (32, 4)])
def test_the_cost_of_five_steps_is_cubic_in_the_smaller_side_only(shape):
    m, n = 4, 32
    with FlopCounterMode(display=False) as counter:
        orthogonalize(torch.randn(shape))
    assert counter.get_total_flops() == 5 * (4 * m**2 * n + 2 * m**3)


# --- the steps ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has Muon from 2.9 on")
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_matrices_are_changed_as_by_pytorchs_muon(decay):
    """Which computes in bfloat16: an update has a root mean square of 0.2, and the tolerance is 2 % of it per step."""
    parameters = with_gradients(*SHAPES[:3])
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    ours = Muon([{"params": parameters, "orthogonal": True, "weight_decay": decay}], lr=0.1)
    theirs = torch.optim.Muon(copies, lr=0.1, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    steps_alike(ours, theirs, parameters, copies, rtol=0, atol=0.01)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has Muon from 2.9 on")
def test_in_float32_pytorchs_muon_makes_the_same_change(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
    parameters = with_gradients(*SHAPES)
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    ours = Muon([{"params": parameters, "orthogonal": True, "weight_decay": 0.1}], lr=0.1)
    theirs = torch.optim.Muon(copies, lr=0.1, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    steps_alike(ours, theirs, parameters, copies, rtol=1e-3, atol=1e-4)


def test_the_others_are_changed_as_by_pytorchs_adamw():
    parameters = with_gradients((3,), (4, 5), (2, 3, 4))
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    ours = Muon([{"params": parameters, "weight_decay": 0.3}], lr=0.1)
    theirs = torch.optim.AdamW(copies, lr=0.1, betas=(0.9, 0.99), weight_decay=0.3)
    steps_alike(ours, theirs, parameters, copies)


@pytest.mark.parametrize("shape", [(64, 64), (256, 64), (64, 256)])
def test_an_update_has_the_same_size_for_every_shape(shape):
    (parameter,) = with_gradients(shape)
    before = parameter.detach().clone()
    Muon([{"params": [parameter], "orthogonal": True}], lr=0.01).step()
    assert ((parameter.detach() - before) / 0.01).square().mean().sqrt() == pytest.approx(0.2, rel=0.25)


def test_without_a_gradient_nothing_moves_and_with_a_zero_one_only_decay_does():
    groups = [{"params": with_gradients((3, 4), (3, 4)), "orthogonal": True}, {"params": with_gradients((4, 3), (3,))}]
    optimizer = Muon([{**group, "weight_decay": 0.5} for group in groups], lr=0.1)
    parameters = [parameter for group in groups for parameter in group["params"]]
    before = [parameter.detach().clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad.zero_()
    parameters[0].grad = None
    optimizer.step()
    for parameter, old, factor in zip(parameters, before, (1.0, 0.95, 0.95, 0.95), strict=True):
        torch.testing.assert_close(parameter.data, old * factor)
    assert parameters[0] not in optimizer.state


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), ()])
def test_only_a_matrix_can_be_orthogonalized(shape):
    with pytest.raises(ValueError, match="is not a matrix: put it into a group for AdamW"):
        Muon([{"params": with_gradients((2, 2), shape), "orthogonal": True}], lr=0.1)


# --- a model ------------------------------------------------------------------------------------------------------


def by_group(model):
    """The names of the parameters that are orthogonalized, of the others that decay, and of the rest."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = make_optimizer(model, 0.1, 0.3).param_groups
    assert [(group["orthogonal"], group["weight_decay"]) for group in groups] == [(True, 0.3), (False, 0.3), (False, 0)]
    found = [[names[parameter] for parameter in group["params"]] for group in groups]
    assert sorted(sum(found, [])) == sorted(names.values())
    return found


def test_the_matrices_of_the_blocks_are_orthogonalized_and_nothing_else(model):
    orthogonal, tables, vectors = by_group(model)
    parts = ("attention.qkv_proj", "attention.out_proj", "feed_forward.up_proj", "feed_forward.down_proj")
    assert orthogonal == [f"blocks.{i}.{part}.weight" for i in range(2) for part in parts]
    assert tables == ["token_embedding.weight", "position_embedding.weight"]
    assert all(name.endswith("bias") or "norm" in name for name in vectors)


def test_an_output_layer_of_its_own_goes_to_adamw(model):
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    assert by_group(model)[1] == ["token_embedding.weight", "position_embedding.weight", "lm_head.weight"]
    assert "_orig_mod.lm_head.weight" in by_group(torch.compile(model, backend="eager"))[1]


def test_a_frozen_parameter_stays(model):
    model.blocks[0].requires_grad_(False)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    train(model, TEXT, steps=3, batch_size=2, make_optimizer=make_optimizer)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == ("blocks.0." in name), name


def fresh(seed=3):
    torch.manual_seed(seed)
    return GPT(GPTConfig(**{**vars(SMALL), "dropout": 0.2}))


def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(tmp_path):
    options = {"steps": 20, "batch_size": 3, "eval_every": 5, "make_optimizer": make_optimizer}
    unbroken = fresh()
    history = train(unbroken, TEXT, **options)

    def stop(run):
        if len(run.history.train) == 12 and not run.history.interrupted:
            raise KeyboardInterrupt

    train(fresh(), TEXT, **options, on_step=[Saver(tmp_path / "run"), stop])
    resumed = fresh(seed=77)
    assert train(resumed, TEXT, **options, on_step=Saver(tmp_path / "run", resume=True)) == history
    for a, b in zip(resumed.parameters(), unbroken.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="another run: its optimizer is Muon, here it is AdamW"):
        train(fresh(), TEXT, **{**options, "on_step": Saver(tmp_path / "run", resume=True)} | {"make_optimizer": adamw})


def adamw(model, learning_rate, weight_decay):
    return torch.optim.AdamW(model.parameters(), learning_rate)


def test_training_learns():
    text, model = torch.arange(400) % SMALL.vocab_size, stir(GPT(SMALL))
    train(model, text, steps=100, batch_size=8, learning_rate=0.02, make_optimizer=make_optimizer)
    assert evaluate(model, text) < 0.1


def test_pytorchs_schedulers_accept_it(model):
    optimizer = make_optimizer(model, 0.5, 0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, total_iters=2)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}
    optimizer.step()
    scheduler.step()
    assert {group["lr"] for group in optimizer.param_groups} == {0.375}
