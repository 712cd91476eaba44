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
from gptlib.ngram import BigramLM
from gptlib.training import History
from gptlib.data import get_batch
from gptlib.model import GPT, GPTConfig
from gptlib.training import Diverged, evaluate, make_optimizer, next_token_loss, schedule, train

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


def test_the_loss_is_the_mean_surprise():
    logits, targets = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    surprises = [-logits[b, t].softmax(0)[targets[b, t]].log() for b in range(2) for t in range(3)]
    torch.testing.assert_close(next_token_loss(logits, targets), torch.stack(surprises).mean())


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


def test_evaluation_is_without_chance_and_leaves_the_mode_alone():
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
    with pytest.raises(ValueError, match=f"{N} tokens cannot fill a window of 1 and its last target: use a longer"):
        evaluate(model, VAL[:N])


def test_a_model_that_does_not_say_its_context():
    with pytest.raises(ValueError, match="BigramLM does not say how long its context is: pass context_length"):
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
    model.blocks[0].feed_forward.up_proj.register_forward_hook(lambda layer, x, y: seen.append((model.training, y.dtype)))
    run(model, val_ids=VAL, mixed_precision=True)
    assert set(seen) == {(True, torch.bfloat16), (False, torch.float32)}
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


# --- what is reported ---------------------------------------------------------------------------------------------


def test_validation_is_of_the_validation_text():
    model, states = fresh(), {}
    before = evaluate(model, VAL)
    history = run(
        model, val_ids=VAL, steps=20, eval_every=10, progress=lambda h: states.update({len(h.train): copied(model)})
    )
    assert [done for done, _ in history.val] == [0, 10, 20]
    assert history.val[0] == (0, before)
    assert history.val[2] == (20, evaluate(model, VAL))
    middle = fresh()
    middle.load_state_dict(states[11])  # reported at the eleventh loss: the weights after ten steps
    assert history.val[1] == (10, evaluate(middle, VAL))
    assert abs(evaluate(model, TEXT) - evaluate(model, VAL)) > 1e-3, "else this test could not tell them apart"


def test_training_never_sees_the_validation_text(monkeypatch):
    drawn = []
    monkeypatch.setattr(training, "batch", lambda ids, *rest: drawn.append(ids) or batch(ids, *rest))
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


def test_progress_comes_every_ten_steps_and_at_the_end():
    seen = []
    history = run(fresh(), steps=25, progress=lambda h: seen.append((len(h.train), h.seconds > 0)))
    assert seen == [(1, True), (11, True), (21, True), (25, True), (25, True)]
    assert not history.interrupted


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
    def progress(history):
        if len(history.train) == step + 1 and not history.interrupted:
            signal.raise_signal(signal.SIGINT)

    return progress


def test_an_interrupt_keeps_what_was_learned(tmp_path):
    before, handler = copied(fresh()), signal.getsignal(signal.SIGINT)
    model = fresh()
    history = run(model, steps=40, progress=interrupt_at(10), checkpoint=tmp_path / "run")
    assert history.interrupted and len(history.train) == 11
    assert not torch.equal(model.lm_head.weight, before["lm_head.weight"])
    assert (tmp_path / "run").is_file()
    assert signal.getsignal(signal.SIGINT) is handler
    eleven = fresh()
    run(eleven, steps=40, progress=interrupt_at(10))
    assert same_weights(model, eleven)


def test_a_second_interrupt_stops_at_once():
    def twice(history):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    # Python's own handler, even where the suite was started with interrupts ignored, in the background of a script.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(fresh(), progress=twice)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


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
    def progress(history):
        if len(history.train) == step + 1:
            raise Killed

    return progress


@pytest.mark.parametrize("stop", [interrupt_at(10), interrupt_at(20), kill_at(10), kill_at(30)])
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(stop, unbroken, tmp_path):
    options = {"val_ids": VAL, "steps": 33, "eval_every": 6, "checkpoint": tmp_path / "run"}
    model = fresh(DROPOUT)
    torch.manual_seed(4)
    try:
        assert run(model, **options, progress=stop).interrupted
    except Killed:
        pass
    torch.manual_seed(99)  # another process, another start
    resumed = fresh(DROPOUT, seed=77)
    history = run(resumed, **options, resume=True)
    assert same_weights(resumed, unbroken[0])
    assert history == unbroken[1] and not history.interrupted


def test_resuming_a_finished_run_does_nothing(unbroken, tmp_path):
    options = {"val_ids": VAL, "steps": 33, "eval_every": 6, "checkpoint": tmp_path / "run"}
    model = fresh(DROPOUT)
    torch.manual_seed(4)
    run(model, **options)
    resumed = fresh(DROPOUT, seed=77)
    history = run(resumed, **options, resume=True)
    assert same_weights(resumed, unbroken[0]) and history == unbroken[1]


def test_interrupted_again_and_again(unbroken, tmp_path):
    options = {"val_ids": VAL, "steps": 33, "eval_every": 6, "checkpoint": tmp_path / "run"}
    torch.manual_seed(3)
    model = GPT(DROPOUT)
    torch.manual_seed(4)
    run(model, **options, progress=interrupt_at(0))
    for step in (10, 20):
        torch.manual_seed(step)
        model = GPT(DROPOUT)
        history = run(model, **options, resume=True, progress=interrupt_at(step))
        assert history.interrupted and len(history.train) == step + 1
    history = run(model, **options, resume=True)
    assert same_weights(model, unbroken[0]) and history == unbroken[1]


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


@pytest.mark.parametrize("step, good", [(0, 0), (7, 0), (13, 10), (20, 10), (29, 20)])
def test_a_loss_that_is_not_a_number_stops_the_run(step, good, not_a_number_at, tmp_path):
    states = {0: copied(fresh())}
    not_a_number_at(step)
    model = fresh()
    with pytest.raises(Diverged, match=f"not a finite number at step {step}: training stopped.* Try a lower") as caught:
        run(
            model, steps=30, eval_every=5, checkpoint=tmp_path / "run",
            progress=lambda history: states.update({len(history.train) - 1: copied(model)}),
        )  # fmt: skip
    assert len(caught.value.history.train) == step
    assert all(math.isfinite(loss) for loss in caught.value.history.train)
    assert all(torch.equal(tensor, states[good][name]) for name, tensor in model.state_dict().items())
    assert math.isfinite(evaluate(model, VAL))


@pytest.mark.parametrize("rate", [1e25, 1e38])
def test_a_real_divergence_reaches_neither_the_model_nor_the_checkpoint(rate, tmp_path):
    """The step that breaks the model is the last one before the checkpoint, where no later loss would tell."""
    model = fresh()
    options = {"steps": 4, "eval_every": 2, "learning_rate": rate, "warmup_steps": 0, "checkpoint": tmp_path / "run"}
    with pytest.raises(Diverged) as caught:
        run(model, **options)
    assert len(caught.value.history.train) <= 2
    assert math.isfinite(evaluate(model, VAL))
    assert not (tmp_path / "run").exists()


def test_the_very_last_step_is_looked_at_too():
    model = fresh()
    with pytest.raises(Diverged, match="at step 1:"):
        run(model, steps=1, learning_rate=1e30)
    assert same_weights(model, fresh())


# --- what cannot be trained ---------------------------------------------------------------------------------------


def test_a_text_shorter_than_one_window():
    with pytest.raises(ValueError, match="8 tokens cannot fill a window of 8 and its last target: use a longer text"):
        train(fresh(), TEXT[:8], steps=1)
    with pytest.raises(ValueError, match="0 tokens cannot fill"):
        train(fresh(), TEXT[:0], steps=1)


def test_no_steps():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        run(fresh(), steps=0)


def test_ids_of_another_tokenizer():
    with pytest.raises(ValueError, match="outside the vocabulary 0…12: was the text encoded with the tokenizer"):
        train(fresh(), TEXT + 5, steps=1)


def test_a_place_where_no_checkpoint_can_stand_is_found_before_the_first_step(tmp_path):
    def never(history):
        raise AssertionError("training began")

    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere to write run into: create it first"):
        run(fresh(), checkpoint=tmp_path / "nowhere" / "run", progress=never)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "precious.txt").write_text("kept")
    with pytest.raises(IsADirectoryError, match="work is a folder: name a file in it"):
        run(fresh(), checkpoint=tmp_path / "work", progress=never)
    assert (tmp_path / "work" / "precious.txt").read_text() == "kept"


def test_a_history_begins_empty_each_time():
    assert History() == History() and History().train is not History().train
