"""Tokenizers against plain Python, and GPT-2's against tiktoken."""

import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import regex
import tiktoken
import torch

import gptlib
from gptlib.data import TEXTS
from gptlib.tokenizers import BPETokenizer, CharTokenizer, WordTokenizer

DATA = Path(__file__).resolve().parents[1] / "data"
VERSE = "To be, or not to be:\nthat is the question"
FOREIGN = "¿Qué? naïve ½ x² Ⅷ 東京\u3000東京  עִברִית 👩‍🚀\x1c\x85\r\n\tdon't I'LL _a_ 1603rd\n\n  "

# GPT-2's own pattern, for the engines that know the kinds of characters by name.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.fixture(scope="module")
def gpt2():
    return BPETokenizer.gpt2()


@pytest.fixture(scope="module")
def reference():
    """tiktoken's GPT-2, from the file of merges: a byte is a token, then each merge one more."""
    printing = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    others = [b for b in range(256) if b not in printing]
    byte = {chr(b): b for b in printing} | {chr(256 + n): b for n, b in enumerate(others)}
    tokens = [bytes([b]) for b in printing + others]
    for line in (DATA / "gpt2" / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]:
        tokens.append(bytes(byte[character] for character in line.replace(" ", "")))
    return tiktoken.Encoding(
        "gpt2",
        pat_str=PATTERN,
        mergeable_ranks={token: i for i, token in enumerate(tokens)},
        special_tokens={"<|endoftext|>": 50256},
    )


# ---------------------------------------------------------------- characters


def test_characters_are_numbered_in_order_and_come_back():
    tokenizer = CharTokenizer("banana\n")
    assert tokenizer.vocabulary == ["\n", "a", "b", "n"] and tokenizer.vocab_size == 4
    assert tokenizer.encode("nab\n") == [3, 1, 2, 0] and tokenizer.decode([3, 1, 2, 0]) == "nab\n"
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_comes_back_from_characters_and_words(name):
    text = gptlib.load(name)
    for tokenizer in (CharTokenizer(text), WordTokenizer(text)):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and set(ids) <= set(range(tokenizer.vocab_size))
        assert len(set(tokenizer.vocabulary)) == tokenizer.vocab_size == len(tokenizer.vocabulary)


def test_shakespeare_has_65_characters():
    assert CharTokenizer(gptlib.load("shakespeare")).vocab_size == 65


def test_an_unseen_character_is_named_with_its_place():
    with pytest.raises(ValueError, match="'é' at position 3 is not among the 7 characters.*take it out, or build"):
        CharTokenizer("the cafe").encode("theé é")


@pytest.mark.parametrize("kind", [CharTokenizer, WordTokenizer])
def test_an_empty_text_has_no_vocabulary(kind):
    with pytest.raises(ValueError, match="needs a text with at least one"):
        kind("")


# ---------------------------------------------------------------- words


def test_words_are_numbered_by_count_and_then_by_the_alphabet():
    tokenizer = WordTokenizer("b b a c\n")  # three spaces, b twice, the others once
    assert tokenizer.vocabulary == ["<unk>", " ", "b", "\n", "a", "c"]
    assert tokenizer.encode("a b, c") == [4, 1, 2, 0, 1, 5]
    assert tokenizer.decode(tokenizer.encode("a b, c")) == "a b<unk> c"


def test_a_word_is_letters_digits_and_underscores():
    text = "I'll pay £10 to snake_case, naïve_2!\n"
    parts = ["I", "'", "ll", " ", "pay", " ", "£", "10", " ", "to", " ", "snake_case", ",", " ", "naïve_2", "!", "\n"]
    assert WordTokenizer.split(text) == parts


def test_max_vocab_keeps_the_commonest_and_counts_the_unknown():
    full = WordTokenizer(VERSE)
    for size in (2, 5, full.vocab_size, full.vocab_size + 10):
        small = WordTokenizer(VERSE, max_vocab=size)
        assert small.vocab_size == min(size, full.vocab_size)
        assert small.vocabulary == full.vocabulary[:size]
        kept = [word if word in small.vocabulary else "<unk>" for word in re.findall(r"\w+|\W", VERSE)]
        assert small.decode(small.encode(VERSE)) == "".join(kept)


@pytest.mark.parametrize("size", [-1, 0, 1])
def test_max_vocab_leaves_room_for_a_word(size):
    with pytest.raises(ValueError, match=f"max_vocab must be at least 2.*got {size}"):
        WordTokenizer(VERSE, max_vocab=size)


def test_the_unknown_token_cannot_be_written():
    tokenizer = WordTokenizer("<unk> unk <unk>")
    assert 0 not in tokenizer.encode("<unk>") and tokenizer.decode(tokenizer.encode("<unk>")) == "<unk>"


# ---------------------------------------------------------------- from a saved vocabulary


@pytest.mark.parametrize("tokenizer", [CharTokenizer(VERSE), WordTokenizer(VERSE), WordTokenizer(VERSE, max_vocab=6)])
def test_a_vocabulary_makes_the_same_tokenizer_again(tokenizer):
    again = type(tokenizer).from_vocabulary(tokenizer.vocabulary)
    assert (again.vocabulary, again.vocab_size) == (tokenizer.vocabulary, tokenizer.vocab_size)
    assert again.encode(VERSE) == tokenizer.encode(VERSE)
    assert again.decode(again.encode(VERSE)) == tokenizer.decode(tokenizer.encode(VERSE))


@pytest.mark.parametrize("vocabulary", [["b", "a"], ["a", "a"], ["a", "bc"], []])
def test_what_is_no_vocabulary_of_characters(vocabulary):
    with pytest.raises(ValueError):
        CharTokenizer.from_vocabulary(vocabulary)


@pytest.mark.parametrize("vocabulary", [["a", "<unk>"], ["<unk>", "a", "a"], ["a"], []])
def test_what_is_no_vocabulary_of_words(vocabulary):
    with pytest.raises(ValueError, match="not a vocabulary of words"):
        WordTokenizer.from_vocabulary(vocabulary)


# ---------------------------------------------------------------- ids, for all three


@pytest.fixture(params=["characters", "words", "GPT-2"])
def any_tokenizer(request, gpt2):
    return {"characters": CharTokenizer(VERSE), "words": WordTokenizer(VERSE), "GPT-2": gpt2}[request.param]


def test_ids_may_come_as_list_array_or_tensor(any_tokenizer):
    ids = any_tokenizer.encode(VERSE)
    assert all(type(i) is int for i in ids)
    for given in (ids, tuple(ids), np.array(ids), torch.tensor(ids)):
        assert any_tokenizer.decode(given) == VERSE


@pytest.mark.parametrize("wrong", [-1, "vocab_size"])
def test_an_id_outside_the_vocabulary_is_named_with_its_place(any_tokenizer, wrong):
    wrong = any_tokenizer.vocab_size if wrong == "vocab_size" else wrong
    last = any_tokenizer.vocab_size - 1
    assert any_tokenizer.decode([last])
    with pytest.raises(ValueError, match=f"token id {wrong} at position 2 is outside the vocabulary 0…{last}"):
        any_tokenizer.decode([0, 1, wrong])


def test_a_fraction_is_no_id(any_tokenizer):
    with pytest.raises(TypeError):
        any_tokenizer.decode([1.5])


# ---------------------------------------------------------------- GPT-2's pieces


@pytest.mark.parametrize("name", TEXTS)
def test_gpt2_ids_are_tiktokens(name, gpt2, reference):
    text = gptlib.load(name)
    ids = gpt2.encode(text)
    assert ids == reference.encode_ordinary(text) and gpt2.decode(ids) == text


def test_gpt2_ids_are_those_of_the_paper(gpt2):
    """Ids that every description of GPT-2 shows: they pin the order of the bytes, which tiktoken is told."""
    assert gpt2.encode("Hello, world!") == [15496, 11, 995, 0]
    assert gpt2.vocab_size == 50257 and gpt2.decode([50256]) == "<|endoftext|>"
    assert gpt2.encode("!") == [0] and gpt2.encode("\n") == [198] and gpt2.encode(" ") == [220]


@pytest.mark.parametrize("text", [FOREIGN, "<|endoftext|>", "", "a" * 5000, " " * 5000, "aab" * 999])
def test_gpt2_ids_of_odd_texts_are_tiktokens(text, gpt2, reference):
    assert gpt2.encode(text) == reference.encode_ordinary(text) and gpt2.decode(gpt2.encode(text)) == text
    assert 50256 not in gpt2.encode(text) and "".join(gpt2.split(text)) == text


def test_gpt2_takes_every_character_for_what_it_is(gpt2, reference):
    """A letter, a number, a space or a sign: each decides which neighbours it may be joined with."""
    old = unicodedata.ucd_3_2_0  # characters that every library knows by now
    codes = [*range(0x3200), *range(0xF900, 0x20000)]  # and not each of the 80,000 Chinese and Korean ones
    text = "".join(f"a{c}b 1{c}1 .{c}. {c}" for c in map(chr, codes) if old.category(c) not in ("Cn", "Cs", "Co"))
    assert gpt2.encode(text) == reference.encode_ordinary(text)
    assert gpt2.split(text) == regex.findall(PATTERN, text)  # not each border shows in the ids


def test_gpt2_token_for_token(gpt2, reference):
    assert gpt2.vocabulary == [reference.decode_single_token_bytes(i) for i in range(50257)]
    for i in range(0, 50256, 7):  # every token, alone: often half a character, which becomes a replacement character
        assert gpt2.decode([i]) == reference.decode([i])


def test_half_a_character_is_replaced(gpt2):
    ids = gpt2.encode("東")
    assert len(ids) > 1 and gpt2.decode(ids) == "東"
    assert set(gpt2.decode(ids[:1])) == {"\ufffd"}


def test_merges_are_applied_in_the_order_in_which_they_were_learned():
    merges = [(b"b", b"c"), (b"a", b"b"), (b"a", b"bc")]
    decoded = [BPETokenizer(merges).decode([i]) for i in BPETokenizer(merges).encode("abcab")]
    assert decoded == ["abc", "ab"]  # bc first, then ab where it is left, then a + bc


def test_an_altered_or_missing_vocabulary_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTLIB_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="vocab.bpe.*missing.*restore it"):
        BPETokenizer.gpt2()
    (tmp_path / "gpt2").mkdir()
    shutil.copy(DATA / "gpt2" / "vocab.bpe", tmp_path / "gpt2")
    assert BPETokenizer.gpt2().vocab_size == 50257
    with open(tmp_path / "gpt2" / "vocab.bpe", "ab") as file:
        file.write(b"a b\n")
    with pytest.raises(ValueError, match="vocab.bpe is not the file.*restore it"):
        BPETokenizer.gpt2()
