"""Checkpoints: written atomically, read without running code, refused when they belong to another run."""

import os
import pickle

import pytest
import torch

from conftest import SMALL, full_disk
from gptlib import checkpoint
from gptlib.checkpoint import Saver
from gptlib.files import atomic_write
from gptlib.model import GPT, GPTConfig
from gptlib.training import History, Run, make_optimizer, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's, on reading what is no checkpoint

TEXT = torch.randint(SMALL.vocab_size, (200,), generator=torch.Generator().manual_seed(1))


def new_run(config=SMALL, settings=None, history=None):
    model = GPT(config)
    return Run(
        model, make_optimizer(model, 0.01, 0.1), torch.Generator(), settings or {"steps": 5}, history or History()
    )


@pytest.fixture
def saved(tmp_path):
    """A checkpoint on the disk, and the run that it was made from."""
    path, run = tmp_path / "run", new_run(history=History([4.0, 3.5], [(0, 4.17)], interrupted=True, seconds=2.0))
    run.model(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
    run.optimizer.step()
    checkpoint.save(path, run)
    return path, run


def alone(path):
    return [file.name for file in path.parent.iterdir()] == [path.name]


def everything(run):
    state = {**run.model.state_dict(), "generator": run.generator.get_state(), "dropout": torch.get_rng_state()}
    for i, moments in run.optimizer.state_dict()["state"].items():
        state |= {f"{i} {name}": value for name, value in moments.items()}
    return {name: tensor.clone() for name, tensor in state.items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_everything_comes_back(saved):
    path, run = saved
    expected = everything(run)
    assert alone(path) and run.checkpoint == path
    torch.manual_seed(123)
    other = new_run()
    other.generator.manual_seed(9)
    history = other.history
    checkpoint.load(path, other)
    assert same(everything(other), expected) and other.checkpoint == path
    assert (history.train, history.val, history.seconds) == (run.history.train, run.history.val, run.history.seconds)
    assert not history.interrupted, "the run continues"


def refused(path, error, message, settings=None, config=SMALL):
    """Loading fails with a message, and changes nothing."""
    other = new_run(config, settings)
    before = everything(other)
    with pytest.raises(error, match=message):
        checkpoint.load(path, other)
    assert same(everything(other), before) and other.history == History()


def test_nothing_there(tmp_path):
    refused(tmp_path / "none", FileNotFoundError, "no checkpoint at .*none")
    refused(tmp_path, FileNotFoundError, "no checkpoint at")


def test_cut_short_anywhere(saved):
    path = saved[0]
    whole = path.read_bytes()
    for length in [0, 1, 4, 100, *range(1000, len(whole), len(whole) // 12), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(path, ValueError, "run is not a complete checkpoint")


@pytest.mark.parametrize(
    "content", [b"To be, or not to be", b"\x80\x02.", b"\x80\x04N.", os.urandom(5000), b"PK\x03\x04" + bytes(500)]
)
def test_something_else(content, tmp_path):
    (tmp_path / "run").write_bytes(content)
    refused(tmp_path / "run", ValueError, "not a complete checkpoint")


@pytest.mark.parametrize("state", [[1, 2], {"model": {}}, {"model": {}, "settings": 3, "history": {}}, torch.zeros(3)])
def test_a_file_of_pytorchs_that_is_no_checkpoint(state, tmp_path):
    torch.save(state, tmp_path / "run")
    refused(tmp_path / "run", ValueError, "not a complete checkpoint")


class Hostile:
    """Unpickled carelessly, this makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_hostile_file_runs_no_code(saved, tmp_path):
    path, trap = saved[0], tmp_path / "sprung"
    pickle.loads(pickle.dumps(Hostile(trap)))  # the trap works
    trap.rmdir()
    state = torch.load(path, weights_only=True)
    torch.save({**state, "history": Hostile(trap)}, path)
    refused(path, ValueError, "not a complete checkpoint")
    path.write_bytes(pickle.dumps(Hostile(trap)))
    refused(path, ValueError, "not a complete checkpoint")
    assert not trap.exists()


def test_other_settings(saved):
    refused(saved[0], ValueError, "another run: its steps is 5, here it is 6", settings={"steps": 6})
    refused(saved[0], ValueError, "its seed is None, here it is 0", settings={"steps": 5, "seed": 0})


@pytest.mark.parametrize(
    "changes", [{"n_embd": 24}, {"vocab_size": 14}, {"context_length": 9}, {"n_layer": 1}, {"n_layer": 3}]
)
def test_another_model(changes, saved):
    message = "run belongs to another model: its .* is .*, here it is"
    refused(saved[0], ValueError, message, config=GPTConfig(**{**vars(SMALL), **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 30}, {"batch_size": 4}, {"context_length": 7}, {"learning_rate": 2e-3}, {"warmup_steps": 3},
        {"weight_decay": 0.0}, {"clip": 2.0}, {"seed": 1}, {"eval_every": 7}, {"mixed_precision": True},
    ],
    ids=str,
)  # fmt: skip
def test_a_run_goes_on_only_under_its_own_settings(changes, tmp_path):
    options = {"steps": 4, "batch_size": 2, "on_step": Saver(tmp_path / "run")}
    train(GPT(SMALL), TEXT, **options)
    (name,) = changes
    with pytest.raises(ValueError, match=f"belongs to another run: its {name} is"):
        train(GPT(SMALL), TEXT, **{**options, **changes, "on_step": Saver(tmp_path / "run", resume=True)})


def test_a_run_goes_on_only_with_its_own_text_and_model(tmp_path):
    options = {"steps": 4, "batch_size": 2}
    train(GPT(SMALL), TEXT, **options, on_step=Saver(tmp_path / "run"))
    options["on_step"] = Saver(tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match="its tokens is 200, here it is 199"):
        train(GPT(SMALL), TEXT[1:], **options)
    for changes in (
        {"n_head": 2},
        {"dropout": 0.1},
        {"n_embd": 24},
    ):  # the first two: parameters of the same shapes
        other = GPT(GPTConfig(**{**vars(SMALL), **changes}))
        with pytest.raises(ValueError, match="its model is GPTConfig"):
            train(other, TEXT, **options)


@pytest.mark.parametrize("every, saved_at", [(None, [3, 6, 7]), (2, [2, 4, 6, 7]), (10, [7])])
def test_when_a_checkpoint_is_written(every, saved_at, monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr(checkpoint, "save", lambda path, run: found.append(len(run.history.train)))
    train(GPT(SMALL), TEXT, steps=7, batch_size=2, eval_every=3, on_step=Saver(tmp_path / "run", every))
    assert found == saved_at


# --- writing ------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_checkpoint(saved):
    path, run = saved
    before = path.read_bytes()
    with pytest.raises(OSError, match="run could not be written"), full_disk():
        checkpoint.save(path, run)
    assert path.read_bytes() == before and alone(path)


def test_a_full_disk_leaves_nothing_half_done(tmp_path):
    with pytest.raises(OSError, match="could not be written"), full_disk():
        checkpoint.save(tmp_path / "run", new_run())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("disk"), KeyboardInterrupt()])
def test_whatever_stops_the_writing_leaves_the_old_file(error, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write(new):
        new.write_text("half of the n")
        raise error

    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError):
        atomic_write(path, write)
    assert path.read_text() == "old" and alone(path)


def test_a_new_file_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "file"
    for text in ("one", "two"):
        atomic_write(path, lambda new, text=text: new.write_text(text) and None)
        assert path.read_text() == text and alone(path)


def test_a_missing_folder_and_a_folder_in_the_way(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Saver(tmp_path / "nowhere" / "run")
    (tmp_path / "run" / "inside").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match="run"):
        Saver(tmp_path / "run")
    assert (tmp_path / "run" / "inside").is_dir()
