"""Saved models: they come back as they were, and a folder that holds something else is refused."""

import json
import os
import pickle

import pytest
import torch

from conftest import SMALL, full_disk, stir
from gptlib import gpt2, pretrained
from gptlib.model import GPT, GPTConfig
from gptlib.tokenizers import BPETokenizer, CharTokenizer, WordTokenizer

LETTERS = CharTokenizer("a b\nc'défgh…i")
FILES = {"config.json", "tokenizer.json", "model.safetensors"}


@pytest.fixture
def folder(model, tmp_path):
    pretrained.save(model, LETTERS, tmp_path / "mine")
    return tmp_path / "mine"


def test_there_are_as_many_letters_as_the_model_knows():
    assert LETTERS.vocab_size == SMALL.vocab_size


def test_model_and_tokenizer_come_back(model, folder, idx):
    assert {path.name for path in folder.iterdir()} == FILES
    found, tokenizer = pretrained.load(folder)
    again, _ = pretrained.load(str(folder))
    assert torch.equal(found(idx), model(idx)) and torch.equal(again(idx), model(idx))
    assert found.config == model.config and not found.training
    assert found.head.weight is found.token_embedding.weight
    assert isinstance(tokenizer, CharTokenizer) and tokenizer.vocabulary == LETTERS.vocabulary
    assert tokenizer.encode("défi") == LETTERS.encode("défi")


def test_a_word_tokenizer_comes_back(tmp_path):
    words = WordTokenizer("to be, or not to be: that is the question", max_vocab=9)
    pretrained.save(GPT(GPTConfig(9, 8, 1, 1, 4)), words, tmp_path / "words")
    _, tokenizer = pretrained.load(tmp_path / "words")
    assert isinstance(tokenizer, WordTokenizer) and tokenizer.vocabulary == words.vocabulary
    assert tokenizer.encode("to be, or to think") == words.encode("to be, or to think")


@pytest.fixture
def with_merges(tmp_path):
    """A folder with a model of byte-pair tokens, and its tokenizer."""
    tokenizer = BPETokenizer([(b"t", b"h"), (b"th", b"e"), (b" ", b"the")], ["<|endoftext|>", "<|user|>"])
    pretrained.save(GPT(GPTConfig(tokenizer.vocab_size, 8, 1, 1, 4)), tokenizer, tmp_path / "bpe")
    return tmp_path / "bpe", tokenizer


def test_a_byte_pair_tokenizer_comes_back_from_its_merges(with_merges):
    folder, tokenizer = with_merges
    assert {path.name for path in folder.iterdir()} == FILES | {"merges.txt"}
    assert json.loads((folder / "tokenizer.json").read_text()) == {"type": "BPETokenizer"}
    _, found = pretrained.load(folder)
    assert isinstance(found, BPETokenizer) and found.vocabulary == tokenizer.vocabulary
    assert found.special_tokens == ("<|endoftext|>", "<|user|>")
    assert found.encode("the thé — the") == tokenizer.encode("the thé — the")


def test_merges_that_are_missing_damaged_or_another_models(with_merges):
    folder, _ = with_merges
    lines = (folder / "merges.txt").read_bytes().splitlines(keepends=True)
    (folder / "merges.txt").write_bytes(b"".join(lines[:-1]))
    with pytest.raises(ValueError, match="tokenizer.json has 260 tokens, config.json 261: the two files belong"):
        pretrained.load(folder)
    (folder / "merges.txt").write_bytes(b"".join(lines[:1] + lines[2:]))
    with pytest.raises(ValueError, match="bpe does not hold a whole saved model"):
        pretrained.load(folder)
    (folder / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no file of merges at .*bpe/merges.txt"):
        pretrained.load(folder)


def test_gpt2s_weights_are_found_here():
    assert pretrained.load_gpt2 is gpt2.load_gpt2 and pretrained.save_gpt2 is gpt2.save_gpt2


def test_a_trained_model_comes_back_in_double_precision(tmp_path):
    model = stir(GPT(SMALL))
    pretrained.save(model.double(), LETTERS, tmp_path / "double")
    found, _ = pretrained.load(tmp_path / "double")
    torch.testing.assert_close(found.head.weight, model.head.weight.float())


def test_a_model_is_replaced_and_what_lies_beside_it_is_kept(model, folder):
    (folder / "README.md").write_text("its card")
    other = stir(GPT(GPTConfig(**{**vars(SMALL), "n_layer": 1})))
    pretrained.save(other, LETTERS, folder)
    found, _ = pretrained.load(folder)
    assert found.config.n_layer == 1 and torch.equal(found.head.weight, other.head.weight)
    assert (folder / "README.md").read_text() == "its card"
    assert [path.name for path in folder.parent.iterdir()] == ["mine"], "nothing temporary is left"


# --- folders that do not hold one whole model -----------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file(name, folder):
    (folder / name).unlink()
    with pytest.raises(
        FileNotFoundError, match=f"no {name} in .*mine: give a folder that `save` wrote, or shakespeare"
    ):
        pretrained.load(folder)


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no config.json in .*none: give a folder"):
        pretrained.load(tmp_path / "none")


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_cut_short(name, folder):
    whole = (folder / name).read_bytes()
    for length in [0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 2]:
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(
            ValueError, match=r"mine does not hold a whole saved model \(.+\): save or download it again"
        ):
            pretrained.load(folder)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_of_something_else(name, folder):
    (folder / name).write_bytes(b"\xff\xfe\x00" * 50)
    with pytest.raises(ValueError, match="mine does not hold a whole saved model"):
        pretrained.load(folder)


class Hostile:
    """Unpickled carelessly, this makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_under_another_name_runs_no_code(folder, tmp_path):
    trap = tmp_path / "sprung"
    torch.save({"token_embedding.weight": Hostile(trap)}, folder / "model.safetensors")
    for _ in range(2):
        with pytest.raises(ValueError, match="mine does not hold a whole saved model"):
            pretrained.load(folder)
        (folder / "model.safetensors").write_bytes(pickle.dumps(Hostile(trap)))
    assert not trap.exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"n_embd": 24},
            r"has shape \(.*\) in model.safetensors, but config.json asks for \(.*\): the two files belong",
        ),
        ({"n_layer": 1}, "has shape .* in model.safetensors, but config.json asks for None"),
        ({"n_layer": 3}, "has shape None in model.safetensors, but config.json asks for"),
        ({"context_length": 16}, "position_embedding.weight has shape"),
        ({"vocab_size": 14}, "token_embedding.weight has shape"),
        ({"n_head": 5}, "n_embd=12 cannot be shared equally by n_head=5"),
        ({"bias": True}, "does not hold a whole saved model .*bias"),
        ({"n_embd": "12"}, "does not hold a whole saved model"),
        ({"n_embd": None}, "does not hold a whole saved model"),
    ],
    ids=str,
)
def test_a_configuration_of_another_model(changes, message, folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=message):
        pretrained.load(folder)


def test_a_configuration_with_something_missing(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["n_head"]
    for content in (config, [1, 2], 3):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="does not hold a whole saved model"):
            pretrained.load(folder)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"type": "CharTokenizer", "vocabulary": ["a", "b"]}, "tokenizer.json has 2 tokens, config.json 13: the two"),
        ({"type": "os.system", "vocabulary": ["a", "b"]}, "does not hold a whole saved model"),
        ({"type": "CharTokenizer"}, "does not hold a whole saved model"),
        ({"type": "CharTokenizer", "vocabulary": []}, "does not hold a whole saved model"),
        ({"type": "CharTokenizer", "vocabulary": 5}, "does not hold a whole saved model"),
        (["CharTokenizer"], "does not hold a whole saved model"),
    ],
    ids=str,
)
def test_a_tokenizer_of_another_model(content, message, folder):
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        pretrained.load(folder)


# --- saving -----------------------------------------------------------------------------------------------------


def test_a_tokenizer_that_does_not_belong_to_the_model(model, tmp_path):
    with pytest.raises(ValueError, match="the tokenizer has 3 tokens, the model 13: save the tokenizer that the model"):
        pretrained.save(model, CharTokenizer("abc"), tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_no_folder_to_save_in(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere to write mine into: create it first"):
        pretrained.save(model, LETTERS, tmp_path / "nowhere" / "mine")


def test_a_file_in_the_way(model, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(FileExistsError, match="mine is a file: choose another name"):
        pretrained.save(model, LETTERS, tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_full_disk_leaves_the_old_model(model, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    expected = "mine could not be written .*: nothing at that place was changed. Free some space"
    with pytest.raises(OSError, match=expected), full_disk():
        pretrained.save(stir(GPT(SMALL)), LETTERS, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


def test_a_folder_that_cannot_be_moved_stays(model, folder, monkeypatch):
    """The new folder cannot take its place, when the old one has been put aside already."""
    before, move = pretrained.load(folder)[0], os.replace

    def fail(source, target):
        if str(source).endswith("new"):
            raise PermissionError(13, "in use")
        move(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="in use"):
        pretrained.save(stir(GPT(SMALL)), LETTERS, folder)
    assert torch.equal(pretrained.load(folder)[0].head.weight, before.head.weight)


def test_loading_leaves_the_random_numbers_alone(folder):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    pretrained.load(folder)
    assert torch.equal(torch.rand(3), expected)


def test_a_head_of_its_own_is_not_lost(model, tmp_path):
    model.head.weight = torch.nn.Parameter(model.head.weight.detach().clone())
    with pytest.raises(ValueError, match="head is no longer the token embedding.*tie it again"):
        pretrained.save(model, LETTERS, tmp_path / "untied")
    with pytest.raises(ValueError, match="head is no longer the token embedding.*tie it again"):
        pretrained.save_gpt2(model, tmp_path / "untied")
    assert not list(tmp_path.iterdir())
