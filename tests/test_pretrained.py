"""Saved models: they come back as they were, and a folder that holds something else is refused."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import SMALL, full_disk, stir
from gptlib import pretrained
from gptlib.bpe import BPETokenizer
from gptlib.data import load_text
from gptlib.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from gptlib.files import data_dir
from gptlib.model import GPT, GPTConfig
from gptlib.sampling import generate
from gptlib.tokenizers import CharTokenizer, WordTokenizer

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
    assert found.lm_head.weight is found.token_embedding.weight
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
    assert {path.name for path in folder.iterdir()} == FILES | {"merges.txt", "vocab.json"}
    assert json.loads((folder / "tokenizer.json").read_text()) == {"type": "BPETokenizer"}
    _, found = pretrained.load(folder)
    assert isinstance(found, BPETokenizer) and found.vocabulary == tokenizer.vocabulary
    assert found.special_tokens == ("<|endoftext|>", "<|user|>")
    assert found.encode("the thé — the") == tokenizer.encode("the thé — the")


def test_merges_that_are_missing_damaged_or_another_models(with_merges):
    folder, tokenizer = with_merges
    lines = (folder / "merges.txt").read_bytes().splitlines(keepends=True)
    for damaged in (lines[:1] + lines[2:], [lines[0], *lines[:0:-1]], [line[:-2] for line in lines], []):
        (folder / "merges.txt").write_bytes(b"".join(damaged))
        with pytest.raises(ValueError, match="bpe cannot be loaded "):
            pretrained.load(folder)
    BPETokenizer([(b"t", b"h")]).save(folder / "merges.txt")
    with pytest.raises(ValueError, match="the tokenizer has 258 tokens, the model 261"):
        pretrained.load(folder)
    tokenizer.save(folder / "merges.txt")
    pretrained.load(folder)
    (folder / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match="bpe/merges.txt"):
        pretrained.load(folder)


def test_a_folder_takes_each_kind_of_model_in_turn(with_merges, model, idx):
    """Whatever an earlier model left in the folder, `load` gives what was saved last."""
    folder, tokenizer = with_merges
    for _ in range(2):
        pretrained.save(model, LETTERS, folder)
        found, letters = pretrained.load(folder)
        assert torch.equal(found(idx), model(idx)) and letters.vocabulary == LETTERS.vocabulary
        other = stir(GPT(GPTConfig(tokenizer.vocab_size, 8, 1, 1, 4)))
        pretrained.save_gpt2(other, folder, tokenizer)
        found, pairs = pretrained.load(folder)
        assert torch.equal(found.lm_head.weight, other.lm_head.weight) and pairs.vocabulary == tokenizer.vocabulary
        pretrained.save(other, tokenizer, folder)
        found, pairs = pretrained.load(folder)
        assert torch.equal(found.lm_head.weight, other.lm_head.weight) and pairs.vocabulary == tokenizer.vocabulary


@pytest.mark.parametrize("name, text", [("shakespeare-gpt", "ROMEO:"), ("shakespeare-gpt2", "ROMEO: 東京")])
def test_the_models_of_the_course(name, text):
    model, tokenizer = pretrained.load(name)
    assert not any(part.training for part in model.modules())
    idx = torch.tensor([tokenizer.encode(text)])
    assert tokenizer.decode(idx[0]) == text and model.config.vocab_size == tokenizer.vocab_size
    ids = torch.tensor(tokenizer.encode(load_text("shakespeare")[-3000:]))[None, :256]
    loss = torch.nn.functional.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:])
    assert loss < 0.6 * torch.tensor(tokenizer.vocab_size).log(), "it has been trained on such a text"
    same, again = pretrained.load(data_dir() / name)
    assert torch.equal(same(idx), model(idx)) and again.vocabulary == tokenizer.vocabulary
    assert generate(model, idx, 5, temperature=0).shape == (1, idx.shape[1] + 5)


@pytest.mark.parametrize(
    "name, files", [("shakespeare-gpt", FILES), ("translator", FILES | {"merges.txt", "vocab.json"})]
)
def test_the_model_of_the_course_comes_out_of_save_as_it_is_shipped(name, files, tmp_path):
    model, tokenizer = pretrained.load(name)
    pretrained.save(model, tokenizer, tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").iterdir()} == files
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (data_dir() / name / path.name).read_bytes(), path.name


def test_an_encoder_decoder_comes_back_and_is_not_taken_for_a_gpt(tmp_path):
    tokenizer = BPETokenizer.train("the cat sat on the mat", 260, ["<pad>", "<start>", "<end>"])
    config = EncoderDecoderConfig(260, 16, 1, 2, 8, dropout=0.1, pad=257, start=258, end=259)
    model = stir(EncoderDecoder(config)).eval()
    pretrained.save(model, tokenizer, tmp_path / "pair")
    found, again = pretrained.load(tmp_path / "pair")
    source, target = torch.tensor([[65, 66, 257], [67, 68, 69]]), torch.tensor([[258, 70], [258, 71]])
    assert found.config == config and not found.training and again.vocabulary == tokenizer.vocabulary
    assert torch.equal(found(source, target), model(source, target))
    assert found.encoder.token_embedding.weight is found.decoder.token_embedding.weight
    other = EncoderDecoderConfig(**{**vars(config), "n_layer": 2})
    (tmp_path / "pair" / "config.json").write_text(json.dumps(vars(other)))
    with pytest.raises(ValueError, match="is missing"):
        pretrained.load(tmp_path / "pair")


def test_the_cards_hold_the_hashes_of_the_files():
    for folder in (data_dir() / name for name in pretrained.SHIPPED):
        card = (folder / "README.md").read_text(encoding="utf-8")
        for path in folder.iterdir():
            if path.suffix not in (".md", ".py") and path.name != "LICENSE":
                assert f"| {path.name} | {hashlib.sha256(path.read_bytes()).hexdigest()} |" in card


def test_a_trained_model_comes_back_in_double_precision(tmp_path):
    model = stir(GPT(SMALL))
    pretrained.save(model.double(), LETTERS, tmp_path / "double")
    found, _ = pretrained.load(tmp_path / "double")
    torch.testing.assert_close(found.lm_head.weight, model.lm_head.weight.float())


def test_a_model_is_replaced_and_what_lies_beside_it_is_kept(model, folder):
    (folder / "README.md").write_text("its card")
    other = stir(GPT(GPTConfig(**{**vars(SMALL), "n_layer": 1})))
    pretrained.save(other, LETTERS, folder)
    found, _ = pretrained.load(folder)
    assert found.config.n_layer == 1 and torch.equal(found.lm_head.weight, other.lm_head.weight)
    assert (folder / "README.md").read_text() == "its card"
    assert [path.name for path in folder.parent.iterdir()] == ["mine"], "nothing temporary is left"


# --- folders that do not hold one whole model -----------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file(name, folder):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        pretrained.load(folder)


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no config.json in .*none: pass shakespeare-gpt, .* `save`"):
        pretrained.load(tmp_path / "none")


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_path_of_a_file_in_the_folder_stands_for_the_folder(name, folder, model, idx):
    assert torch.equal(pretrained.load(folder / name)[0](idx), model(idx))


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_cut_short(name, folder):
    whole = (folder / name).read_bytes()
    for length in [0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 2]:
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(
            ValueError, match=r"mine cannot be loaded \(.+\): if a file is damaged, save or download it again"
        ):
            pretrained.load(folder)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_of_something_else(name, folder):
    (folder / name).write_bytes(b"\xff\xfe\x00" * 50)
    with pytest.raises(ValueError, match="mine cannot be loaded"):
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
        with pytest.raises(ValueError, match="mine cannot be loaded"):
            pretrained.load(folder)
        (folder / "model.safetensors").write_bytes(pickle.dumps(Hostile(trap)))
    assert not trap.exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"n_embd": 24},
            r"is \(.*\), but the configuration asks for \(.*\)",
        ),
        ({"n_layer": 1}, r"blocks.1.* is \(.*\), but the configuration asks for no such parameter"),
        ({"n_layer": 3}, r"blocks.2.* is missing, but the configuration asks for \(.*\)"),
        ({"context_length": 16}, r"position_embedding.weight is \(8, 12\), but .* \(16, 12\)"),
        ({"vocab_size": 14}, r"token_embedding.weight is \(13, 12\), but .* \(14, 12\)"),
        ({"position_encoding": "rotary"}, r"position_embedding.weight is \(8, 12\), but .* no such parameter"),
        ({"position_encoding": "alibi"}, "position_encoding='alibi': choose from"),
        ({"n_head": 5}, "n_embd=12 is not a multiple of n_head=5"),
        ({"bias": True}, "cannot be loaded .*bias"),
        ({"n_embd": "12"}, "cannot be loaded"),
        ({"n_embd": None}, "cannot be loaded"),
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
        with pytest.raises(ValueError, match="cannot be loaded"):
            pretrained.load(folder)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"type": "CharTokenizer", "vocabulary": ["a", "b"]}, "the tokenizer has 2 tokens, the model 13"),
        ({"type": "os.system", "vocabulary": ["a", "b"]}, "cannot be loaded"),
        ({"type": "CharTokenizer"}, "cannot be loaded"),
        ({"type": "CharTokenizer", "vocabulary": []}, "cannot be loaded"),
        ({"type": "CharTokenizer", "vocabulary": 5}, "cannot be loaded"),
        (["CharTokenizer"], "cannot be loaded"),
    ],
    ids=str,
)
def test_a_tokenizer_of_another_model(content, message, folder):
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        pretrained.load(folder)


# --- saving -----------------------------------------------------------------------------------------------------


def test_a_tokenizer_that_does_not_belong_to_the_model(model, tmp_path):
    with pytest.raises(ValueError, match="the tokenizer has 3 tokens, the model 13: use its own"):
        pretrained.save(model, CharTokenizer("abc"), tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_no_folder_to_save_in(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere to write mine into: create it first"):
        pretrained.save(model, LETTERS, tmp_path / "nowhere" / "mine")


def test_a_file_in_the_way(model, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(FileExistsError, match="mine"):
        pretrained.save(model, LETTERS, tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_full_disk_leaves_the_old_model(model, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(OSError, match="model.safetensors could not be written and is unchanged"), full_disk():
        pretrained.save(stir(GPT(SMALL)), LETTERS, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


def test_a_file_that_cannot_be_replaced_is_found_before_anything_is_written(model, tmp_path):
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(IsADirectoryError, match="tokenizer.json is a folder"):
        pretrained.save(model, LETTERS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_a_tokenizer_that_cannot_be_saved_is_found_before_anything_is_written(tmp_path):
    tokenizer = BPETokenizer([(b"t", b"h")], ["th"])  # written like the merged token
    with pytest.raises(ValueError, match="special token is .* like another"):
        pretrained.save(GPT(GPTConfig(tokenizer.vocab_size, 8, 1, 1, 4)), tokenizer, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_a_path_object_is_a_path_never_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("124M", "gpt2-124M", "shakespeare-gpt"):
        with pytest.raises(FileNotFoundError, match=f"no config.json in {name}: "):
            pretrained.load(Path(name))


def test_the_folder_itself_stays(model, tmp_path, monkeypatch, idx):
    """Saved into the working folder, its parent, and a link: the folder and the link are the same ones afterwards."""
    home = tmp_path / "home"
    (home / "inner").mkdir(parents=True)
    (home / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(home, target_is_directory=True)
    inode = home.stat().st_ino
    monkeypatch.chdir(home)
    for folder in (".", tmp_path / "link", home / "inner" / ".."):
        pretrained.save(model, LETTERS, folder)
        assert {path.name for path in home.iterdir()} == FILES | {"inner", "notes.txt"}
        assert torch.equal(pretrained.load(folder)[0](idx), model(idx))
        (home / "model.safetensors").unlink()
    assert home.stat().st_ino == inode and (tmp_path / "link").is_symlink() and os.getcwd() == str(home)


def test_a_link_in_the_folder_stays_a_link(model, folder, tmp_path, idx):
    """As in a folder whose weights are kept on another disk."""
    (folder / "model.safetensors").rename(tmp_path / "weights")
    (folder / "model.safetensors").symlink_to(tmp_path / "weights")
    other = stir(GPT(SMALL)).eval()
    pretrained.save(other, LETTERS, folder)
    assert (folder / "model.safetensors").is_symlink()
    assert torch.equal(pretrained.load(folder)[0](idx), other(idx))


def test_other_users_may_read_what_was_saved(folder):
    mask = os.umask(0o022)
    os.umask(mask)
    if os.name == "posix":
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~mask}


def test_a_compiled_model_is_saved_as_a_plain_one(model, folder, tmp_path):
    pretrained.save(torch.compile(model, backend="eager"), LETTERS, tmp_path / "whole")
    model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
    pretrained.save(model, LETTERS, tmp_path / "part")
    for name in ("whole", "part"):
        for path in folder.iterdir():
            assert (tmp_path / name / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("position_encoding", ["learned", "sinusoidal", "rotary", "none"])
def test_each_position_encoding_comes_back(position_encoding, tmp_path, idx):
    model = stir(GPT(GPTConfig(**{**vars(SMALL), "n_head": 2, "position_encoding": position_encoding}))).eval()
    pretrained.save(model, LETTERS, tmp_path / "mine")
    found, _ = pretrained.load(tmp_path / "mine")
    assert found.config == model.config and torch.equal(found(idx), model(idx))


def test_a_model_of_the_first_edition_is_refused_with_its_old_names(folder):
    config, weights = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    old = {"qkv_proj": "qkv", "out_proj": "project", "up_proj": "widen", "down_proj": "narrow", "final_norm": "norm"}
    renamed = {".".join(old.get(part, part) for part in name.split(".")): weights[name] for name in weights}
    save_file(renamed, folder / "model.safetensors")
    with pytest.raises(ValueError, match="first edition of gptlib, with the names .'narrow', 'norm', 'project', 'qkv'"):
        pretrained.load(folder)
    config["positions"] = config.pop("position_encoding")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="with the names .'narrow', 'norm', 'positions', 'project', 'qkv', 'widen'"):
        pretrained.load(folder)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match="first edition of gptlib, with the names .'positions'.: train it again"):
        pretrained.load(folder)


def test_a_head_in_the_file_must_be_the_token_embedding(folder, model, idx):
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"lm_head.weight": weights["token_embedding.weight"].clone()}, folder / "model.safetensors")
    assert torch.equal(pretrained.load(folder)[0](idx), model(idx))
    save_file(weights | {"lm_head.weight": weights["token_embedding.weight"] + 1}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="lm_head.weight is not the token embedding"):
        pretrained.load(folder)


def test_loading_leaves_the_random_numbers_alone(folder):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    pretrained.load(folder)
    assert torch.equal(torch.rand(3), expected)


def test_a_head_of_its_own_is_not_lost(model, tmp_path):
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with pytest.raises(ValueError, match="lm_head is not tied: set model.lm_head.weight"):
        pretrained.save(model, LETTERS, tmp_path / "untied")
    with pytest.raises(ValueError, match="lm_head is not tied: set model.lm_head.weight"):
        pretrained.save_gpt2(model, tmp_path / "untied")
    assert not list(tmp_path.iterdir())
