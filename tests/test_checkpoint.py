"""Checkpoints: written whole or not at all, read without running code, refused when they belong elsewhere."""

import os
import pickle

import pytest
import torch

from conftest import SMALL, full_disk
from gptlib.training import History, load_checkpoint, save_checkpoint
from gptlib.files import atomic_write
from gptlib.model import GPT, GPTConfig
from gptlib.training import make_optimizer, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's, on reading what is no checkpoint

TEXT = torch.randint(SMALL.vocab_size, (200,), generator=torch.Generator().manual_seed(1))


def parts(config=SMALL):
    model = GPT(config)
    return model, make_optimizer(model, 0.01, 0.1), torch.Generator()


@pytest.fixture
def saved(tmp_path):
    """A checkpoint on the disk, with what it was made from."""
    path, (model, optimizer, generator) = tmp_path / "run", parts()
    model(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
    optimizer.step()
    history = History(train=[4.0, 3.5], val=[(0, 4.17)], interrupted=True, seconds=2.0)
    save_checkpoint(path, model, optimizer, generator, {"steps": 5}, history)
    return path, model, optimizer, generator, history


def alone(path):
    return [file.name for file in path.parent.iterdir()] == [path.name]


def everything(model, optimizer, generator):
    state = {**model.state_dict(), "generator": generator.get_state(), "dropout": torch.get_rng_state()}
    for i, moments in optimizer.state_dict()["state"].items():
        state |= {f"{i} {name}": value for name, value in moments.items()}
    return {name: tensor.clone() for name, tensor in state.items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_everything_comes_back(saved):
    path, model, optimizer, generator, history = saved
    expected = everything(model, optimizer, generator)
    assert alone(path)
    torch.manual_seed(123)
    others = parts()
    others[2].manual_seed(9)
    found = load_checkpoint(path, *others, {"steps": 5})
    assert same(everything(*others), expected)
    assert (found.train, found.val, found.seconds) == (history.train, history.val, history.seconds)
    assert not found.interrupted, "it goes on"


def refused(path, error, message, settings=None, config=SMALL):
    """Loading fails with a message, and changes nothing."""
    others = parts(config)
    before = everything(*others)
    with pytest.raises(error, match=message):
        load_checkpoint(path, *others, settings or {"steps": 5})
    assert same(everything(*others), before)


def test_nothing_there(tmp_path):
    refused(tmp_path / "none", FileNotFoundError, "no checkpoint at .*none to resume from: start with resume=False")
    refused(None, FileNotFoundError, "no checkpoint at None")
    refused(tmp_path, FileNotFoundError, "no checkpoint at")


def test_cut_short_anywhere(saved):
    path = saved[0]
    whole = path.read_bytes()
    for length in [0, 1, 4, 100, *range(1000, len(whole), len(whole) // 12), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(path, ValueError, r"run is not a whole checkpoint of this package \(.+\): start again")


@pytest.mark.parametrize(
    "content", [b"To be, or not to be", b"\x80\x02.", b"\x80\x04N.", os.urandom(5000), b"PK\x03\x04" + bytes(500)]
)
def test_something_else(content, tmp_path):
    (tmp_path / "run").write_bytes(content)
    refused(tmp_path / "run", ValueError, "not a whole checkpoint of this package")


@pytest.mark.parametrize("state", [[1, 2], {"model": {}}, {"model": {}, "settings": 3, "history": {}}, torch.zeros(3)])
def test_a_file_of_pytorchs_that_is_no_checkpoint(state, tmp_path):
    torch.save(state, tmp_path / "run")
    refused(tmp_path / "run", ValueError, "not a whole checkpoint of this package")


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
    refused(path, ValueError, "not a whole checkpoint of this package")
    path.write_bytes(pickle.dumps(Hostile(trap)))
    refused(path, ValueError, "not a whole checkpoint of this package")
    assert not trap.exists()


def test_other_settings(saved):
    message = "run belongs to another run: its steps is 5, here it is 6. Give the same settings"
    refused(saved[0], ValueError, message, settings={"steps": 6})
    refused(saved[0], ValueError, "its seed is None, here it is 0", settings={"steps": 5, "seed": 0})


@pytest.mark.parametrize(
    "changes", [{"n_embd": 24}, {"vocab_size": 14}, {"context_length": 9}, {"n_layer": 1}, {"n_layer": 3}]
)
def test_another_model(changes, saved):
    message = "run belongs to another model: its .* has shape .*, here it is .*Build the model with the same config"
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
    options = {"steps": 4, "batch_size": 2, "checkpoint": tmp_path / "run"}
    train(GPT(SMALL), TEXT, **options)
    (name,) = changes
    with pytest.raises(ValueError, match=f"belongs to another run: its {name} is"):
        train(GPT(SMALL), TEXT, **{**options, **changes}, resume=True)


def test_a_run_goes_on_only_with_its_own_text_and_model(tmp_path):
    options = {"steps": 4, "batch_size": 2, "checkpoint": tmp_path / "run"}
    train(GPT(SMALL), TEXT, **options)
    with pytest.raises(ValueError, match="its training text"):
        train(GPT(SMALL), TEXT.flip(0), **options, resume=True)
    for changes in ({"n_head": 2}, {"dropout": 0.1}, {"n_embd": 24}):  # the first two have the same weights' shapes
        other = GPT(GPTConfig(**{**vars(SMALL), **changes}))
        with pytest.raises(ValueError, match="its model is GPTConfig"):
            train(other, TEXT, **options, resume=True)


# --- writing ------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_checkpoint(saved):
    path, model, optimizer, generator, history = saved
    before = path.read_bytes()
    expected = "run could not be written .*: nothing at that place was changed. Free some space"
    with pytest.raises(OSError, match=expected), full_disk():
        save_checkpoint(path, model, optimizer, generator, {"steps": 6}, history)
    assert path.read_bytes() == before and alone(path)


def test_a_full_disk_leaves_nothing_half_done(tmp_path):
    with pytest.raises(OSError, match="could not be written"), full_disk():
        save_checkpoint(tmp_path / "run", *parts(), {}, History())
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
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere to write run into: create it first"):
        save_checkpoint(tmp_path / "nowhere" / "run", *parts(), {}, History())
    (tmp_path / "run" / "inside").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match="run is a folder: name a file in it"):
        save_checkpoint(tmp_path / "run", *parts(), {}, History())
    assert (tmp_path / "run" / "inside").is_dir()
