"""Training against PyTorch's schedulers, a plain loop, and itself without the interruption."""

import math
import signal
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from conftest import SMALL, stir
from gptlib import training
from gptlib.checkpoint import Saver
from gptlib.data import get_batch
from gptlib.model import GPT, GPTConfig
from gptlib.ngram import BigramLM
from gptlib.training import Diverged, History, cosine_schedule, evaluate, make_optimizer, next_token_loss, train

TEXT = torch.randint(SMALL.vocab_size, (200,), generator=torch.Generator().manual_seed(1))
VAL = torch.randint(SMALL.vocab_size, (43,), generator=torch.Generator().manual_seed(2))
DROPOUT = GPTConfig(**{**vars(SMALL), "dropout": 0.2})


def fresh(config=SMALL, seed=3):
    torch.manual_seed(seed)
    return GPT(config)


def run(model, **options):
    return train(model, TEXT, **{"steps": 12, "batch_size": 3, **options})


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# --- the loss -----------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_cross_entropy():
    logits, targets = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    losses = [-logits[b, t].softmax(0)[targets[b, t]].log() for b in range(2) for t in range(3)]
    torch.testing.assert_close(next_token_loss(logits, targets), torch.stack(losses).mean())


def one_at_a_time(model, ids, T):
    """Each token's surprise, from the part of its window that stands before it."""
    total = 0.0
    for i in range(1, len(ids)):
        start = (i - 1) // T * T
        total -= F.log_softmax(model(ids[None, start:i])[0, -1].double(), dim=-1)[ids[i]].item()
    return total / (len(ids) - 1)


@pytest.mark.parametrize("N", [2, 8, 9, 10, 17, 24, 25, 43])
def test_evaluation_counts_every_prediction_once(N, model):
    with torch.no_grad():
        expected = one_at_a_time(model, VAL[:N], 8)
    assert evaluate(model, VAL[:N]) == pytest.approx(expected, abs=1e-5)
    assert evaluate(model, VAL[:N], batch_size=2) == pytest.approx(expected, abs=1e-5)


def test_evaluation_in_shorter_windows(model):
    with torch.no_grad():
        assert evaluate(model, VAL, context_length=5) == pytest.approx(one_at_a_time(model, VAL, 5), abs=1e-5)


def test_evaluation_weights_a_short_last_window_by_its_length():
    """A model that is sure that everything is token 0, and one token at the end that is not."""
    model = BigramLM(2)
    model.logits.weight.data = torch.tensor([[0.0, -10.0], [0.0, -10.0]])
    ids = torch.tensor([0] * 9 + [1])
    assert evaluate(model, ids, context_length=8) == pytest.approx(10 / 9, abs=1e-3)


def test_evaluation_is_deterministic_and_leaves_the_mode_alone():
    model = stir(fresh(DROPOUT))
    expected = evaluate(model.eval(), VAL)
    assert not model.training
    model.train()
    state = torch.get_rng_state()
    assert [evaluate(model, VAL) for _ in range(3)] == [expected] * 3
    assert model.training and model.blocks[0].attention.dropout.training
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError):
        evaluate(model, VAL + SMALL.vocab_size)
    assert model.training, "after an error, too"


def test_evaluation_takes_no_gradient(model):
    evaluate(model, VAL)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("N", [0, 1])
def test_nothing_to_evaluate(N, model):
    with pytest.raises(ValueError, match=f"{N} tokens"):
        evaluate(model, VAL[:N])


def test_a_model_that_does_not_say_its_context():
    with pytest.raises(ValueError, match="BigramLM .*pass context_length"):
        evaluate(BigramLM(13), VAL)
    with pytest.raises(ValueError, match="pass context_length"):
        train(BigramLM(13), TEXT, steps=1)


# --- the schedule -------------------------------------------------------------------------------------------------


def pytorchs_schedule(steps, peak, warmup, floor):
    """The same curve from PyTorch's own schedulers: a linear one, then a cosine."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup, eta_min=floor)
    scheduler = cosine
    if warmup:
        up = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=max(warmup - 1, 1))
        scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [up, cosine], milestones=[warmup])
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("steps, warmup", [(20, 5), (20, 2), (7, 0), (100, 10)])
def test_the_schedule_is_pytorchs(steps, warmup):
    found = [cosine_schedule(step, steps, 0.3, warmup, 0.03) for step in range(steps)]
    assert found == pytest.approx(pytorchs_schedule(steps, 0.3, warmup, 0.03), rel=1e-6)


def test_the_schedule_at_its_corners():
    assert cosine_schedule(0, 50, 1.0, 4, 0.1) == 0.25
    assert cosine_schedule(3, 50, 1.0, 4, 0.1) == cosine_schedule(4, 50, 1.0, 4, 0.1) == 1.0
    assert cosine_schedule(27, 50, 1.0, 4, 0.1) == pytest.approx(0.55)
    assert cosine_schedule(50, 50, 1.0, 4, 0.1) == pytest.approx(0.1)
    assert cosine_schedule(2, 3, 1.0, 5, 0.1) == 0.6, "a warm-up longer than the run"


@pytest.fixture
def seen_by_optimizer():
    """What the optimizer holds at the moment of each of its steps."""
    steps = []

    def look(optimizer, args, kwargs):
        if not isinstance(optimizer, torch.optim.AdamW):
            return
        gradient = torch.cat([p.grad.flatten() for group in optimizer.param_groups for p in group["params"]])
        rates = {group["lr"] for group in optimizer.param_groups}
        steps.append({"lr": rates, "norm": gradient.norm().item(), "groups": optimizer.param_groups})

    hook = register_optimizer_step_pre_hook(look)
    yield steps
    hook.remove()


@pytest.mark.parametrize("warmup, expected", [(None, 2), (5, 5)])
def test_the_optimizer_moves_at_the_schedule(warmup, expected, seen_by_optimizer):
    """Unless given, the warm-up is a twentieth of the steps; the floor is a tenth of the peak."""
    run(fresh(), steps=40, learning_rate=0.01, warmup_steps=warmup)
    assert all(len(step["lr"]) == 1 for step in seen_by_optimizer)
    found = [min(step["lr"]) for step in seen_by_optimizer]
    assert found == pytest.approx(pytorchs_schedule(40, 0.01, expected, 0.001), rel=1e-6)


# --- the step -----------------------------------------------------------------------------------------------------


def test_only_matrices_decay_and_everything_is_moved_once(model):
    optimizer = make_optimizer(model, 0.1, weight_decay=0.5)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(held) == len(set(held)) and set(held) == set(model.parameters())
    before = copied(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # all that is left to move a weight is decay
    optimizer.step()
    for name, parameter in model.named_parameters():
        matrix = name.endswith("weight") and "norm" not in name
        torch.testing.assert_close(parameter.data, before[name] * (0.95 if matrix else 1.0))


def test_decay_is_as_asked_for(seen_by_optimizer):
    run(fresh(), steps=1, weight_decay=0.03)
    groups = seen_by_optimizer[0]["groups"]
    decay = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert {(parameter.ndim, amount) for parameter, amount in decay.items()} == {(2, 0.03), (1, 0.0)}


def test_the_gradient_is_clipped(seen_by_optimizer):
    run(stir(fresh()), steps=12, clip=0.01)
    assert [step["norm"] for step in seen_by_optimizer] == pytest.approx([0.01] * 12, rel=1e-3)
    seen_by_optimizer.clear()
    run(stir(fresh()), steps=3, clip=1e9)
    assert min(step["norm"] for step in seen_by_optimizer) > 0.1


def test_a_run_is_the_plain_loop():
    """The same batches through PyTorch's own parts, written out in the plainest way."""
    steps, B, T, peak = 30, 4, 6, 0.01
    ours, plain = fresh(), fresh()
    history = run(ours, steps=steps, batch_size=B, context_length=T, learning_rate=peak, clip=0.5, seed=11)

    parameters = list(plain.parameters())
    optimizer = torch.optim.AdamW(
        [{"params": [p], "weight_decay": 0.1 if p.ndim == 2 else 0.0} for p in parameters], betas=(0.9, 0.99)
    )
    generator, losses = torch.Generator().manual_seed(11), []
    for rate in pytorchs_schedule(steps, peak, 1, peak / 10):
        starts = torch.randint(len(TEXT) - T, (B,), generator=generator).tolist()
        x, y = (torch.stack([TEXT[s + shift : s + shift + T] for s in starts]) for shift in (0, 1))
        loss = F.cross_entropy(plain(x).reshape(B * T, -1), y.reshape(-1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss.backward()
        length = torch.stack([p.grad.norm() for p in parameters]).norm()
        for p in parameters:
            p.grad *= min(1.0, 0.5 / length.item())
        optimizer.step()
        losses.append(loss.item())

    assert history.train == pytest.approx(losses, abs=1e-4)
    for a, b in zip(ours.parameters(), plain.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_training_learns():
    text = torch.arange(400) % SMALL.vocab_size
    model = fresh()
    history = train(model, text, steps=120, batch_size=8, learning_rate=0.01)
    assert history.train[0] == pytest.approx(math.log(SMALL.vocab_size), abs=0.1)
    assert evaluate(model, text) < 0.1


def test_a_model_without_vectors_can_be_trained():
    model = BigramLM(SMALL.vocab_size)
    history = train(model, TEXT, steps=5, context_length=8)
    assert len(history.train) == 5


def test_mixed_precision_is_for_the_steps_only():
    seen = []
    model = fresh()
    model.blocks[0].feed_forward.up_proj.register_forward_hook(
        lambda layer, x, y: seen.append((model.training, y.dtype))
    )
    run(model, val_ids=VAL, mixed_precision=True)
    assert set(seen) == {(True, torch.bfloat16), (False, torch.float32)}
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


# --- what is reported ---------------------------------------------------------------------------------------------


def test_validation_is_of_the_validation_text():
    model, states = fresh(), {}
    before = evaluate(model, VAL)
    history = run(
        model,
        val_ids=VAL,
        steps=20,
        eval_every=10,
        on_step=lambda run: states.update({len(run.history.train): copied(model)}),
    )
    assert [done for done, _ in history.val] == [0, 10, 20]
    assert history.val[0] == (0, before)
    assert history.val[2] == (20, evaluate(model, VAL))
    middle = fresh()
    middle.load_state_dict(states[10])
    assert history.val[1] == (10, evaluate(middle, VAL))
    assert abs(evaluate(model, TEXT) - evaluate(model, VAL)) > 1e-3, "else this test could not tell them apart"


def test_training_never_sees_the_validation_text(monkeypatch):
    drawn = []
    monkeypatch.setattr(training, "get_batch", lambda ids, *rest: drawn.append(ids) or get_batch(ids, *rest))
    with_val, without = fresh(DROPOUT), fresh(DROPOUT)
    torch.manual_seed(5)
    run(with_val, val_ids=VAL)
    torch.manual_seed(5)
    run(without)
    assert same_weights(with_val, without), "looking at the validation text changes nothing"
    assert drawn and all(ids is TEXT for ids in drawn)


@pytest.mark.parametrize(
    "steps, every, expected", [(20, None, range(0, 21, 2)), (7, 5, [0, 5, 7]), (3, None, range(4))]
)
def test_when_there_is_an_evaluation(steps, every, expected):
    history = run(fresh(), val_ids=VAL, steps=steps, eval_every=every)
    assert [done for done, _ in history.val] == list(expected)
    assert len(history.train) == steps


def test_callbacks_are_called_before_the_first_step_and_after_each():
    seen, also = [], []
    history = run(
        fresh(), steps=5, on_step=[lambda run: seen.append(len(run.history.train)), lambda run: also.append(run.steps)]
    )
    assert seen == list(range(6)) and also == [5] * 6
    assert history.seconds > 0 and not history.interrupted


def test_the_seed_decides_the_batches():
    one, same, other = fresh(), fresh(), fresh()
    first, again = run(one, seed=1), run(same, seed=1)
    assert same_weights(one, same) and first.train == again.train
    assert run(other, seed=2).train != first.train


def test_the_batches_do_not_depend_on_the_global_generator():
    one, other = fresh(), fresh()
    run(one, seed=1)
    torch.rand(7)
    run(other, seed=1)
    assert same_weights(one, other)


# --- interrupted, resumed, diverged -------------------------------------------------------------------------------


def interrupt_at(step):
    def on_step(run):
        if len(run.history.train) == step and not run.history.interrupted:
            signal.raise_signal(signal.SIGINT)

    return on_step


@pytest.fixture(autouse=True)
def python_handles_interrupts():
    """Even where the suite was started with interrupts ignored, in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_keeps_what_was_learned():
    model, seen = fresh(), []
    history = run(model, steps=40, on_step=[interrupt_at(11), lambda run: seen.append(run.history.interrupted)])
    assert history.interrupted and len(history.train) == 11 and seen[-1]
    eleven, states = fresh(), {}
    run(eleven, steps=40, on_step=lambda run: states.update({len(run.history.train): copied(eleven)}))
    assert all(torch.equal(tensor, states[11][name]) for name, tensor in model.state_dict().items())


def test_training_outside_the_main_thread():
    histories = []
    thread = threading.Thread(target=lambda: histories.append(run(fresh())))
    thread.start()
    thread.join()
    assert len(histories[0].train) == 12


@pytest.fixture(scope="module")
def unbroken():
    model = fresh(DROPOUT)
    torch.manual_seed(4)
    return model, run(model, val_ids=VAL, steps=33, eval_every=6)


class Killed(Exception):
    pass


def kill_at(step):
    def on_step(run):
        if len(run.history.train) == step:
            raise Killed

    return on_step


@pytest.mark.parametrize("stop", [interrupt_at(11), interrupt_at(20), kill_at(12), kill_at(31)])
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(stop, unbroken, tmp_path):
    options = {"val_ids": VAL, "steps": 33, "eval_every": 6}
    model = fresh(DROPOUT)
    torch.manual_seed(4)
    try:
        assert run(model, **options, on_step=[Saver(tmp_path / "run"), stop]).interrupted
    except Killed:
        pass
    torch.manual_seed(99)  # another process
    resumed = fresh(DROPOUT, seed=77)
    history = run(resumed, **options, on_step=Saver(tmp_path / "run", resume=True))
    assert same_weights(resumed, unbroken[0])
    assert history == unbroken[1] and not history.interrupted


def test_resuming_a_finished_run_does_nothing(unbroken, tmp_path):
    options = {"val_ids": VAL, "steps": 33, "eval_every": 6}
    model = fresh(DROPOUT)
    torch.manual_seed(4)
    run(model, **options, on_step=Saver(tmp_path / "run"))
    resumed = fresh(DROPOUT, seed=77)
    history = run(resumed, **options, on_step=Saver(tmp_path / "run", resume=True))
    assert same_weights(resumed, unbroken[0]) and history == unbroken[1]


def test_interrupted_again_and_again(unbroken, tmp_path):
    options = {"val_ids": VAL, "steps": 33, "eval_every": 6}
    torch.manual_seed(3)
    model = GPT(DROPOUT)
    torch.manual_seed(4)
    run(model, **options, on_step=[Saver(tmp_path / "run", every=1), interrupt_at(1)])
    for step in (10, 20):
        torch.manual_seed(step)
        model = GPT(DROPOUT)
        history = run(model, **options, on_step=[Saver(tmp_path / "run", every=1, resume=True), interrupt_at(step)])
        assert history.interrupted and len(history.train) == step
    history = run(model, **options, on_step=Saver(tmp_path / "run", resume=True))
    assert same_weights(model, unbroken[0]) and history == unbroken[1]


def test_a_compiled_model_trains_saves_and_resumes_like_a_plain_one(tmp_path):
    plain, compiled = fresh(), torch.compile(fresh(), backend="eager")
    history = run(plain, steps=6, on_step=Saver(tmp_path / "plain"))
    assert run(compiled, steps=6, on_step=Saver(tmp_path / "compiled")).train == pytest.approx(history.train)
    for path, model in (("compiled", fresh(seed=7)), ("plain", torch.compile(fresh(seed=7), backend="eager"))):
        assert run(model, steps=6, on_step=Saver(tmp_path / path, resume=True)) == history
        for a, b in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a, b)


@pytest.fixture
def not_a_number_at(monkeypatch):
    def set_up(step):
        calls, honest = [], training.next_token_loss

        def loss(logits, targets):
            if not torch.is_grad_enabled():
                return honest(logits, targets)
            calls.append(1)
            return honest(logits, targets) * (math.nan if len(calls) == step + 1 else 1.0)

        monkeypatch.setattr(training, "next_token_loss", loss)

    return set_up


@pytest.mark.parametrize("step", [0, 7, 29])
def test_a_loss_that_is_not_a_number_stops_the_run_before_it_changes_the_model(step, not_a_number_at, tmp_path):
    states, model = {}, fresh()
    not_a_number_at(step)
    with pytest.raises(Diverged, match=f"not finite at step {step}") as caught:
        run(
            model, steps=30, eval_every=5,
            on_step=[Saver(tmp_path / "run"), lambda run: states.update({len(run.history.train): copied(model)})],
        )  # fmt: skip
    assert len(caught.value.history.train) == step
    assert all(math.isfinite(loss) for loss in caught.value.history.train)
    assert all(torch.equal(tensor, states[step][name]) for name, tensor in model.state_dict().items())
    assert (str(tmp_path / "run") if step >= 5 else "no checkpoint") in str(caught.value)


def test_an_infinite_gradient_stops_the_run_too(monkeypatch):
    monkeypatch.setattr(training.nn.utils, "clip_grad_norm_", lambda *rest: torch.tensor(math.inf))
    with pytest.raises(Diverged, match="at step 0"):
        run(fresh(), steps=3)


def test_parameters_that_are_no_longer_finite_reach_no_checkpoint(tmp_path):
    """The last step breaks the model, so no later loss tells."""
    with pytest.raises(Diverged, match="at step 1"):
        run(fresh(), steps=1, learning_rate=1e39, warmup_steps=0, on_step=Saver(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# --- what cannot be trained ---------------------------------------------------------------------------------------


def test_a_text_shorter_than_one_window():
    with pytest.raises(ValueError, match="8 tokens .*window of 8"):
        train(fresh(), TEXT[:8], steps=1)
    with pytest.raises(ValueError, match="0 tokens"):
        train(fresh(), TEXT[:0], steps=1)


def test_no_steps():
    with pytest.raises(ValueError, match="steps=0"):
        run(fresh(), steps=0)


def test_ids_of_another_tokenizer():
    with pytest.raises(ValueError, match="outside the vocabulary 0…12"):
        train(fresh(), TEXT + 5, steps=1)


def test_a_path_that_cannot_be_written_is_found_before_the_first_step(tmp_path):
    def never(run):
        raise AssertionError("training began")

    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(fresh(), on_step=[never, Saver(tmp_path / "nowhere" / "run")])
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "precious.txt").write_text("kept")
    with pytest.raises(IsADirectoryError, match="work"):
        run(fresh(), on_step=[never, Saver(tmp_path / "work")])
    assert (tmp_path / "work" / "precious.txt").read_text() == "kept"


def test_a_history_begins_empty_each_time():
    assert History() == History() and History().train is not History().train
