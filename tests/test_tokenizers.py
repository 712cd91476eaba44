"""Tokenizers against plain Python, and byte-pair encoding against tiktoken and Hugging Face's tokenizers."""

import json
import random
import re
import shutil

import numpy as np
import pytest
import tiktoken
import tokenizers
import torch
from test_bpe import DATA, ORDER, PATTERN, WRITTEN, random_texts, shared_characters

import gptlib
from conftest import full_disk
from gptlib.bpe import END_OF_TEXT, HEADER, BPETokenizer
from gptlib.data import TEXTS
from gptlib.tokenizers import CharTokenizer, WordTokenizer

VERSE = "To be, or not to be:\nthat is the question"
FOREIGN = "¿Qué? naïve ½ x² Ⅷ 東京\u3000東京  עִברִית 👩‍🚀\x1c\x85\r\n\tdon't I'LL _a_ 1603rd\n\n  "
WRITTEN_AS = {character: byte for byte, character in WRITTEN.items()}


@pytest.fixture(scope="module")
def gpt2():
    return BPETokenizer.gpt2()


def by_tiktoken(tokens: list[bytes], special_tokens=(END_OF_TEXT,)) -> tiktoken.Encoding:
    """tiktoken with these tokens, in order, followed by the special tokens."""
    return tiktoken.Encoding(
        "from tokens",
        pat_str=PATTERN,
        mergeable_ranks={token: i for i, token in enumerate(tokens)},
        special_tokens={name: len(tokens) + i for i, name in enumerate(special_tokens)},
    )


def gpt2s_tokens() -> list[bytes]:
    """The tokens by the file of merges: the bytes, then one per merge."""
    lines = (DATA / "gpt2" / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
    merged = [bytes(WRITTEN_AS[character] for character in line.replace(" ", "")) for line in lines]
    return [bytes([b]) for b in ORDER] + merged


@pytest.fixture(scope="module")
def reference():
    return by_tiktoken(gpt2s_tokens())


@pytest.fixture(scope="module")
def small():
    """512 tokens learned from a speech."""
    return BPETokenizer.train(gptlib.load_text("kennedy")[:50_000], 512)


# ---------------------------------------------------------------- characters


def test_character_ids_follow_code_points_and_decode_to_the_text():
    tokenizer = CharTokenizer("banana\n")
    assert tokenizer.vocabulary == ["\n", "a", "b", "n"] and tokenizer.vocab_size == 4
    assert tokenizer.encode("nab\n") == [3, 1, 2, 0] and tokenizer.decode([3, 1, 2, 0]) == "nab\n"
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""


@pytest.mark.parametrize("name", TEXTS)
def test_decoding_restores_every_text_from_characters_and_words(name):
    text = gptlib.load_text(name)
    for tokenizer in (CharTokenizer(text), WordTokenizer(text)):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and set(ids) <= set(range(tokenizer.vocab_size))
        assert len(set(tokenizer.vocabulary)) == tokenizer.vocab_size == len(tokenizer.vocabulary)


def test_shakespeare_has_65_characters():
    assert CharTokenizer(gptlib.load_text("shakespeare")).vocab_size == 65


def test_an_unknown_character_is_named_with_its_position():
    with pytest.raises(ValueError, match="'é' at position 3 is not in the vocabulary of 7"):
        CharTokenizer("the cafe").encode("theé é")


@pytest.mark.parametrize("kind", [CharTokenizer, WordTokenizer])
def test_an_empty_text_has_no_vocabulary(kind):
    with pytest.raises(ValueError, match="needs a text"):
        kind("")


# ---------------------------------------------------------------- words


def test_words_are_ordered_by_count_and_then_alphabetically():
    tokenizer = WordTokenizer("b b a c\n")  # three spaces, b twice, the others once
    assert tokenizer.vocabulary == ["<unk>", " ", "b", "\n", "a", "c"]
    assert tokenizer.encode("a b, c") == [4, 1, 2, 0, 1, 5]
    assert tokenizer.decode(tokenizer.encode("a b, c")) == "a b<unk> c"


def test_a_word_is_letters_digits_and_underscores():
    text = "I'll pay £10 to snake_case, naïve_2!\n"
    parts = ["I", "'", "ll", " ", "pay", " ", "£", "10", " ", "to", " ", "snake_case", ",", " ", "naïve_2", "!", "\n"]
    assert WordTokenizer.split(text) == parts


def test_max_vocab_keeps_the_most_frequent_and_counts_the_unknown_token():
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


def test_text_cannot_spell_the_unknown_token():
    tokenizer = WordTokenizer("<unk> unk <unk>")
    assert 0 not in tokenizer.encode("<unk>") and tokenizer.decode(tokenizer.encode("<unk>")) == "<unk>"


# ---------------------------------------------------------------- from a saved vocabulary


@pytest.mark.parametrize("tokenizer", [CharTokenizer(VERSE), WordTokenizer(VERSE), WordTokenizer(VERSE, max_vocab=6)])
def test_a_saved_vocabulary_restores_the_tokenizer(tokenizer):
    again = type(tokenizer).from_vocabulary(tokenizer.vocabulary)
    assert (again.vocabulary, again.vocab_size) == (tokenizer.vocabulary, tokenizer.vocab_size)
    assert again.encode(VERSE) == tokenizer.encode(VERSE)
    assert again.decode(again.encode(VERSE)) == tokenizer.decode(tokenizer.encode(VERSE))


@pytest.mark.parametrize("vocabulary", [["b", "a"], ["a", "a"], ["a", "bc"], []])
def test_an_invalid_vocabulary_of_characters_is_refused(vocabulary):
    with pytest.raises(ValueError):
        CharTokenizer.from_vocabulary(vocabulary)


@pytest.mark.parametrize("vocabulary", [["a", "<unk>"], ["<unk>", "a", "a"], ["a"], []])
def test_an_invalid_vocabulary_of_words_is_refused(vocabulary):
    with pytest.raises(ValueError, match="vocabulary of words"):
        WordTokenizer.from_vocabulary(vocabulary)


# ---------------------------------------------------------------- ids, for all of them


@pytest.fixture(params=["characters", "words", "small BPE", "GPT-2"])
def any_tokenizer(request, gpt2, small):
    """One of each kind."""
    kinds = {"characters": CharTokenizer(VERSE), "words": WordTokenizer(VERSE), "small BPE": small, "GPT-2": gpt2}
    return kinds[request.param]


def test_ids_may_come_as_list_array_or_tensor(any_tokenizer):
    ids = any_tokenizer.encode(VERSE)
    assert all(type(i) is int for i in ids)
    for given in (ids, tuple(ids), np.array(ids), torch.tensor(ids)):
        assert any_tokenizer.decode(given) == VERSE


@pytest.mark.parametrize("wrong", [-1, "vocab_size"])
def test_an_id_outside_the_vocabulary_is_named_with_its_position(any_tokenizer, wrong):
    wrong = any_tokenizer.vocab_size if wrong == "vocab_size" else wrong
    last = any_tokenizer.vocab_size - 1
    assert any_tokenizer.decode([last])
    with pytest.raises(ValueError, match=f"token id {wrong} at position 2 is outside the vocabulary 0…{last}"):
        any_tokenizer.decode([0, 1, wrong])


def test_a_fraction_is_not_an_id(any_tokenizer):
    with pytest.raises(TypeError):
        any_tokenizer.decode([1.5])


# ---------------------------------------------------------------- GPT-2's tokens


@pytest.mark.parametrize("name", TEXTS)
def test_gpt2_ids_are_tiktokens(name, gpt2, reference):
    text = gptlib.load_text(name)
    ids = gpt2.encode(text)
    assert ids == reference.encode_ordinary(text) and gpt2.decode(ids) == text


def test_gpt2_ids_are_the_published_ones(gpt2):
    """Published ids, which fix the order of the bytes: the tiktoken encoding above is given ours."""
    assert gpt2.encode("Hello, world!") == [15496, 11, 995, 0]
    assert gpt2.vocab_size == 50257 and gpt2.decode([50256]) == "<|endoftext|>"
    assert gpt2.encode("!") == [0] and gpt2.encode("\n") == [198] and gpt2.encode(" ") == [220]


ODD = [FOREIGN, "", "a" * 5000, " " * 5000, "aab" * 999, "\0" * 999, "é" * 999, "".join(map(chr, range(256)))]


@pytest.mark.parametrize("text", ODD)
def test_ids_of_odd_texts_are_tiktokens(text, gpt2, small, reference):
    for tokenizer, theirs in ((gpt2, reference), (small, by_tiktoken(small.vocabulary[:-1]))):
        ids = tokenizer.encode(text)
        assert ids == theirs.encode_ordinary(text) and tokenizer.decode(ids) == text


def test_ids_of_10_000_random_texts_are_tiktokens(gpt2, small, reference):
    for tokenizer, theirs in ((gpt2, reference), (small, by_tiktoken(small.vocabulary[:-1]))):
        for text in random_texts(10_000):
            ids = tokenizer.encode(text)
            assert ids == theirs.encode_ordinary(text), repr(text)
            assert tokenizer.decode(ids) == text


def test_gpt2_classifies_every_character_as_tiktoken_does(gpt2, reference):
    """A letter, a number, a space or a symbol: the class decides which neighbors may share a pre-token."""
    codes = [
        *range(0x80, 0x3200),
        *range(0xF900, 0x20000),
        *range(0xE0000, 0xE0200),
    ]  # without the 90,000 Chinese characters
    text = "".join(f"a{c}b 1{c}1 .{c}. {c}" for c in sorted(set(shared_characters()) & set(map(chr, codes))))
    assert gpt2.encode(text) == reference.encode_ordinary(text)


def test_gpt2s_vocabulary_is_tiktokens(gpt2, reference):
    assert gpt2.vocabulary == [reference.decode_single_token_bytes(i) for i in range(50257)]
    for i in range(0, 50256, 7):  # every token, alone: often half a character, which becomes a replacement character
        assert gpt2.decode([i]) == reference.decode([i])


# ---------------------------------------------------------------- BPE: encoding and decoding


def test_merges_are_applied_in_the_order_in_which_they_were_learned():
    merges = [(b"b", b"c"), (b"a", b"b"), (b"a", b"bc")]
    decoded = [BPETokenizer(merges).decode([i]) for i in BPETokenizer(merges).encode("abcab")]
    assert decoded == ["abc", "ab"]  # bc first, then ab where it is left, then a + bc


def test_a_vocabulary_is_the_bytes_then_the_merges_then_the_special_tokens():
    tokenizer = BPETokenizer([(b"t", b"h"), (b"th", b"e")], special_tokens=["<|a|>", "<|é|>"])
    assert tokenizer.vocabulary == [bytes([b]) for b in ORDER] + [b"th", b"the", b"<|a|>", "<|é|>".encode()]
    assert tokenizer.vocab_size == 260 and tokenizer.special_tokens == ("<|a|>", "<|é|>")
    assert tokenizer.decode([257, 259, 258]) == "the<|é|><|a|>"


@pytest.mark.parametrize(
    "merges, rank",
    [
        ([(b"th", b"e")], 0),  # no earlier merge makes the left token
        ([(b"t", b"h"), (b"a", b"nd")], 1),  # nor the right one
        ([(b"t", b"h"), (b"t", b"h")], 1),  # twice
        ([(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"a", b"bc")], 3),  # the same token in another way
        ([(b"", b"h")], 0),
        ([(b"t", b"h"), ("t", "o")], 1),  # str instead of bytes
    ],
)
def test_an_impossible_merge_is_named(merges, rank):
    with pytest.raises(ValueError, match=f"merge {rank} of {re.escape(repr(merges[rank][0]))} and"):
        BPETokenizer(merges)


def test_half_a_character_is_replaced(gpt2):
    ids = gpt2.encode("東")
    assert len(ids) > 1 and gpt2.decode(ids) == "東"
    assert set(gpt2.decode(ids[:1])) == {"\ufffd"}


def test_any_ids_can_be_decoded(gpt2, small, reference):
    rng = random.Random(0)
    only_bytes = list(range(256))
    for _ in range(3000):
        ids = rng.choices(rng.choice([range(gpt2.vocab_size), only_bytes]), k=rng.choice([0, 1, 2, 5, 30]))
        assert gpt2.decode(ids) == reference.decode(ids)
        few = [i % small.vocab_size for i in ids]
        assert small.decode(few) == b"".join(small.vocabulary[i] for i in few).decode("utf-8", "replace")


@pytest.mark.parametrize("text, position", [("\ud83d", 0), ("ab\udc00", 2), ("é\udc69\ud83d", 1), ("a\udfff b", 1)])
def test_a_lone_surrogate_is_refused_with_its_position(text, position, small):
    for refused in (lambda: small.encode(text), lambda: BPETokenizer.train(text, 257)):
        with pytest.raises(ValueError, match=f"at position {position} is half a character"):
            refused()


def test_the_cache_stays_small_and_does_not_change_the_ids(gpt2, monkeypatch):
    monkeypatch.setattr(gptlib.bpe, "CACHE_SIZE", 10)
    text, small_cache = gptlib.load_text("lincoln")[:5000], BPETokenizer.gpt2()
    for _ in range(2):
        assert small_cache.encode(text) == gpt2.encode(text)
        assert 0 < len(small_cache._cache) <= 10
    small_cache.encode("the the")[0] = -1
    assert small_cache.encode("the the") == gpt2.encode("the the")


# ---------------------------------------------------------------- special tokens


def test_a_special_token_is_ordinary_text_unless_it_is_allowed(gpt2, reference):
    text = "a  <|endoftext|><|endoftext|>\n<|endoftext|> <|endoftext |endoftext|>é<|endoftext|>"
    assert 50256 not in gpt2.encode(text)
    assert gpt2.encode(text) == reference.encode_ordinary(text) == gpt2.encode(text, allowed_special=[])
    ids = gpt2.encode(text, allowed_special=[END_OF_TEXT])
    assert ids == reference.encode(text, allowed_special={END_OF_TEXT}) and ids.count(50256) == 4
    assert gpt2.decode(ids) == text
    assert gpt2.encode(END_OF_TEXT, allowed_special=[END_OF_TEXT]) == [50256]


def test_special_tokens_are_allowed_one_by_one():
    tokenizer = BPETokenizer([], ["<|user|>", "<|tool|>"])
    text = "<|tool|>x<|user|>"
    x, spelled = tokenizer.encode("x"), tokenizer.encode("<|tool|>")
    assert len(spelled) == 8
    assert tokenizer.encode(text, ["<|user|>"]) == [*spelled, *x, 256]
    for allowed in (["<|user|>", "<|tool|>"], ("<|tool|>", "<|user|>"), {"<|user|>", "<|tool|>"}, iter(["<|tool|>"])):
        assert tokenizer.encode(text, allowed)[:2] == [257, *x]


@pytest.mark.parametrize("order", [1, -1])
def test_the_longer_of_two_special_tokens_that_begin_alike_matches(order):
    names = ["<|a|>", "<|a|><|b|>", "<|b|>", ".*", "a b\n", "東"][::order]
    tokenizer = BPETokenizer([], names)
    number = {name: 256 + i for i, name in enumerate(names)}
    text = "<|b|><|a|><|b|><|a|>.*a b\n東.."
    dots = tokenizer.encode("..")
    expected = [number[name] for name in ("<|b|>", "<|a|><|b|>", "<|a|>", ".*", "a b\n", "東")]
    assert tokenizer.encode(text, names) == expected + dots and tokenizer.decode(expected + dots) == text
    ids = tokenizer.encode("<|a|><|b|>", ["<|a|>", "<|b|>"])  # the longer one is not allowed
    assert ids == [number["<|a|>"], number["<|b|>"]]


@pytest.mark.parametrize("allowed", [["<|endofline|>"], ["<|endoftext|>", ""], "<|endoftext|>", "all"])
def test_an_unknown_special_token_is_refused(allowed, small):
    wrong = {"<": "<", "a": "a"}.get(allowed[0], allowed[-1])  # of a str, its first character
    with pytest.raises(ValueError, match=f"{re.escape(repr(wrong))} is no special token.*list of.*endoftext"):
        small.encode("a", allowed_special=allowed)


@pytest.mark.parametrize("names", [["<|a|>", "<|a|>"], [""], "abc", END_OF_TEXT])  # the last two are not lists
def test_special_tokens_are_a_list_of_different_names(names):
    for refused in (lambda: BPETokenizer([], names), lambda: BPETokenizer.train("a", 256 + len(names), names)):
        with pytest.raises(ValueError, match="different names"):
            refused()


# ---------------------------------------------------------------- BPE: training


def huggingface(vocab, merges) -> tokenizers.Tokenizer:
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return theirs


def written(token: bytes) -> str:
    return "".join(WRITTEN[byte] for byte in token)


@pytest.mark.parametrize("name", TEXTS)
def test_training_learns_the_same_tokens_as_huggingface(name):
    """Their bytes have the same order, and their ties go to the lower ids too."""
    text = gptlib.load_text(name)
    ours, theirs = BPETokenizer.train(text, 4096), huggingface({}, [])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=4096,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # without special tokens, which would come first
    theirs.train_from_iterator([text], trainer)
    learned = [token for token, _ in sorted(theirs.get_vocab().items(), key=lambda item: item[1])]
    assert [written(token) for token in ours.vocabulary[:4095]] == learned[:4095]
    ids = ours.encode(text)
    assert ours.decode(ids) == text and ids == by_tiktoken(ours.vocabulary[:-1]).encode_ordinary(text)
    assert len(ids) < len(text) / 2.9


def test_the_vocabulary_size_includes_special_tokens_which_are_not_learned():
    for names in ((), ("<|a|>",), ("<|a|>", "<|b|>", "<|c|>")):
        tokenizer = BPETokenizer.train("banana bandana" + "<|a|>" * 9, 262, special_tokens=iter(names))
        assert tokenizer.vocab_size == len(tokenizer.vocabulary) == 262 and tokenizer.special_tokens == names
        assert tokenizer.vocabulary[256] == b"<|" and b"<|a|>" not in tokenizer.vocabulary[: 262 - len(names)]


def test_training_on_letters_of_other_scripts():
    text = FOREIGN + "l'été où l'élève s'éleva\n東京東京 👩‍🚀👩‍🚀"
    tokenizer = BPETokenizer.train(text, 300)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) < len(text.encode())


@pytest.mark.parametrize("names", [(), (END_OF_TEXT,), ("<|a|>", "<|b|>")])
def test_a_vocabulary_has_at_least_the_bytes_and_the_special_tokens(names):
    least = 256 + len(names)
    assert BPETokenizer.train(VERSE, least, names).vocab_size == least
    for size in (least - 1, 0, -1):
        with pytest.raises(ValueError, match=f"vocab_size is {size}, but .* are {least}"):
            BPETokenizer.train(VERSE, size, names)


@pytest.mark.parametrize("text, n_merges", [("", 0), ("a b", 1), ("ab" * 10, 5), ("abcdefgh", 7)])
def test_a_text_with_too_few_pairs_is_refused_with_the_largest_vocabulary(text, n_merges):
    """' b' is a pre-token; 20 letters shrink to 10, 5, 3, 2 and 1 tokens; 8 different letters need 7 merges."""
    assert BPETokenizer.train(text, 257 + n_merges).vocab_size == 257 + n_merges
    for size in (257 + n_merges + 1, 5000):
        with pytest.raises(ValueError, match=f"only {n_merges} merges.*vocab_size of {257 + n_merges}$"):
            BPETokenizer.train(text, size)


# ---------------------------------------------------------------- BPE: files


@pytest.mark.parametrize("names", [[END_OF_TEXT], [], ["<|é|>", 'a "b"\n', "#\\", "東\u2028"]])
def test_save_and_load_restore_the_tokenizer(names, small, tmp_path):
    merges = [(small.vocabulary[left], small.vocabulary[right]) for left, right in small._ranks]
    before = BPETokenizer(merges, names)
    for path in (tmp_path / "merges.txt", str(tmp_path / "merges.txt")):  # the second time it replaces the first
        before.save(path)
        after = BPETokenizer.load(path)
        assert (after.vocabulary, after.special_tokens) == (before.vocabulary, tuple(names))
        assert after.encode(FOREIGN, names) == before.encode(FOREIGN, names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]


def test_every_byte_can_be_part_of_a_merge_in_a_file(tmp_path):
    before = BPETokenizer([(bytes([b]), bytes([255 - b])) for b in range(256)])
    before.save(tmp_path / "merges.txt")
    lines = (tmp_path / "merges.txt").read_bytes().split(b"\n")
    assert len(lines) == 258 and lines[-1] == b"" and all(line.count(b" ") == 1 for line in lines[1:-1])
    assert BPETokenizer.load(tmp_path / "merges.txt").vocabulary == before.vocabulary


def test_the_file_has_gpt2s_format(tmp_path):
    BPETokenizer([(b" ", b"t"), (b"\n", b"\n"), (b" t", "é".encode()[:1])]).save(tmp_path / "merges.txt")
    expected = "#version: 0.2\nĠ t\nĊ Ċ\nĠt Ã\n"
    assert (tmp_path / "merges.txt").read_bytes().decode("utf-8") == expected


def test_gpt2s_own_file_can_be_loaded_and_saved(gpt2, tmp_path):
    loaded = BPETokenizer.load(DATA / "gpt2" / "vocab.bpe")
    assert loaded.vocabulary == gpt2.vocabulary and loaded.special_tokens == gpt2.special_tokens == (END_OF_TEXT,)
    loaded.save(tmp_path / "merges.txt")
    saved = (tmp_path / "merges.txt").read_bytes().split(b"\n")
    assert saved[1:] == (DATA / "gpt2" / "vocab.bpe").read_bytes().split(b"\n")[1:]


def test_huggingface_reads_the_file(small, tmp_path):
    small.save(tmp_path / "merges.txt")
    vocab = {written(token): i for i, token in enumerate(small.vocabulary[:-1])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    read = tokenizers.models.BPE.read_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    theirs = huggingface(*read)
    for text in (gptlib.load_text("lincoln")[:50_000], FOREIGN, *random_texts(1000)):
        assert small.encode(text) == theirs.encode(text).ids, repr(text)


def test_a_file_of_huggingface_is_read(tmp_path):
    text, theirs = gptlib.load_text("kennedy"), huggingface({}, [])
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    theirs.train_from_iterator([text], trainer)
    theirs.model.save(str(tmp_path))
    ours = BPETokenizer.load(tmp_path / "merges.txt")
    assert ours.vocab_size == 500 and ours.special_tokens == ()
    assert ours.encode(text) == theirs.encode(text).ids


# ---------------------------------------------------------------- BPE: damaged files


@pytest.fixture
def content(small, tmp_path):
    """A file of 40 merges, as bytes."""
    merges = [(small.vocabulary[left], small.vocabulary[right]) for left, right in small._ranks][:40]
    BPETokenizer(merges, ["<|é|>"]).save(tmp_path / "merges.txt")
    return (tmp_path / "merges.txt").read_bytes()


def load_damaged(content: bytes, tmp_path) -> BPETokenizer:
    (tmp_path / "damaged.txt").write_bytes(content)
    return BPETokenizer.load(tmp_path / "damaged.txt", ["<|é|>"])


def test_a_file_cut_short_is_refused_at_every_byte(content, tmp_path):
    whole = BPETokenizer.load(tmp_path / "merges.txt")
    for end in range(len(content)):
        line = content[:end].count(b"\n") + 1
        if content[:end].endswith(b"\n"):  # between two lines: a file of fewer merges, like any other
            assert load_damaged(content[:end], tmp_path).vocabulary[: 254 + line] == whole.vocabulary[: 254 + line]
        else:
            with pytest.raises(ValueError, match="begins with .* and ends with a newline"):
                load_damaged(content[:end], tmp_path)


def test_a_byte_that_is_not_utf8_is_refused_with_its_line(content, tmp_path):
    for position in [*range(len(HEADER)), *range(content.index(b"\n") + 1, len(content))]:
        line = content[:position].count(b"\n") + 1
        last = position == len(content) - 1
        with pytest.raises(ValueError, match="begins with" if line == 1 or last else rf"line {line} is"):
            load_damaged(content[:position] + b"\xff" + content[position + 1 :], tmp_path)


def test_merges_in_another_order_are_refused(content, tmp_path):
    lines = content.decode().split("\n")
    needed = next(i for i, line in enumerate(lines[1:-1], 1) if len(line) > 3)  # the first merge of a merged token
    made = [line.replace(" ", "") for line in lines]
    needs = max(made.index(token) for token in lines[needed].split(" ") if len(token) > 1)
    lines[needed], lines[needs] = lines[needs], lines[needed]
    with pytest.raises(ValueError, match=f"merge {needs - 1} of"):
        load_damaged("\n".join(lines).encode(), tmp_path)


@pytest.mark.parametrize("damaged", ["", "th", "t h e", "t  h", " h", "t ", "t 東", "t h\r", "t\u00a0h", "T h", "t\th"])
def test_a_line_that_is_no_merge_is_named(damaged, tmp_path):
    lines = [HEADER, "T h", "o f", damaged, "a n", ""]  # T h is a merge, but not a second time
    with pytest.raises(ValueError, match=r"line 4 is|merge 2 of"):
        load_damaged("\n".join(lines).encode(), tmp_path)
    lines[3] = "t h"
    assert load_damaged("\n".join(lines).encode(), tmp_path).vocab_size == 261


@pytest.mark.parametrize("first", ["", "t h", "# version: 0.2", "\ufeff#version: 0.2"])
def test_another_first_line_is_refused(first, tmp_path):
    with pytest.raises(ValueError, match="begins with '#version: 0.2'"):
        load_damaged(f"{first}\nt h\n".encode(), tmp_path)


def test_special_tokens_that_come_first_are_refused_and_not_read_as_other_ids(tmp_path):
    theirs = tokenizers.ByteLevelBPETokenizer()
    theirs.train_from_iterator(
        [gptlib.load_text("kennedy")], vocab_size=300, special_tokens=[END_OF_TEXT], show_progress=False
    )
    theirs.save_model(str(tmp_path))
    with pytest.raises(ValueError, match=r"vocab.json gives '!' the id 1, but merges.txt gives it 0\b"):
        BPETokenizer.load(tmp_path / "merges.txt")
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(ValueError, match="no vocab.json beside .*special_tokens="):
        BPETokenizer.load(tmp_path / "merges.txt")
    assert BPETokenizer.load(tmp_path / "merges.txt", [END_OF_TEXT]).vocab_size == 300


def test_special_tokens_come_from_the_vocab_json_of_huggingface(small, tmp_path):
    small.save(tmp_path / "merges.txt")
    ids = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8")) | {"<|user|>": 512}
    (tmp_path / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    theirs = huggingface(*tokenizers.models.BPE.read_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")))
    theirs.add_special_tokens([END_OF_TEXT, "<|user|>"])
    ours = BPETokenizer.load(tmp_path / "merges.txt")
    assert ours.special_tokens == (END_OF_TEXT, "<|user|>")
    text = FOREIGN + END_OF_TEXT + "<|user|>"
    assert ours.encode(text, ours.special_tokens) == theirs.encode(text).ids


@pytest.mark.parametrize("change", [{"Ġt": 257, "he": 256}, {"Ġt": 999}, {"!": None}])
def test_a_vocab_json_that_does_not_match_the_merges_is_refused(change, tmp_path):
    BPETokenizer([(b" ", b"t"), (b"h", b"e")]).save(tmp_path / "merges.txt")
    ids = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8")) | change
    ids = {token: i for token, i in ids.items() if i is not None}
    (tmp_path / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    with pytest.raises(ValueError, match=f"vocab.json gives {next(iter(change))!r} the id .*, but merges.txt gives it"):
        BPETokenizer.load(tmp_path / "merges.txt")


def test_tokens_that_a_vocab_json_cannot_hold_are_refused(small, tmp_path):
    with pytest.raises(ValueError, match="written like another token"):
        BPETokenizer([], ["a"]).save(tmp_path / "merges.txt")
    with pytest.raises(ValueError, match="would replace vocab.json"):
        small.save(tmp_path / "vocab.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [CharTokenizer, WordTokenizer])
def test_a_lone_surrogate_is_not_part_of_a_vocabulary(kind):
    with pytest.raises(ValueError, match="position 2 is half a character"):
        kind("ab\ud83d")
    with pytest.raises(ValueError, match="half a character"):
        kind.from_vocabulary(["<unk>", "\ud83d"])


def test_common_mistakes_are_explained(any_tokenizer):
    ids = torch.tensor([any_tokenizer.encode("to be")])
    for wrong in (ids, ids[0, 0], ids.numpy()):
        with pytest.raises(ValueError, match=r"shape \((1, \d+)?\).*one sequence"):
            any_tokenizer.decode(wrong)
    for wrong in (torch.randn(65), np.array([1.0]), [[1]], "to be", 5, None):
        with pytest.raises(TypeError, match="sequence of integer token ids"):
            any_tokenizer.decode(wrong)
    for wrong in ([1, 2], b"to be", None):
        with pytest.raises(TypeError, match=f"got {type(wrong).__name__}"):
            any_tokenizer.encode(wrong)
    small_ids = [i % 256 for i in ids[0].tolist() if i % 256 < any_tokenizer.vocab_size]
    assert any_tokenizer.decode(torch.tensor(small_ids, dtype=torch.uint8)) == any_tokenizer.decode(small_ids)


def test_a_full_disk_leaves_the_old_file(gpt2, small, tmp_path):
    small.save(tmp_path / "merges.txt")
    old = (tmp_path / "merges.txt").read_bytes()
    with full_disk(), pytest.raises(OSError, match="merges.txt could not be written|vocab.json could not be written"):
        gpt2.save(tmp_path / "merges.txt")
    assert (tmp_path / "merges.txt").read_bytes() == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]


def test_a_path_that_cannot_be_a_file_is_named(small, tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"):
        small.save(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        small.save(tmp_path / "nowhere" / "merges.txt")
    for missing in (tmp_path / "nothing.txt", str(tmp_path)):
        with pytest.raises(OSError, match=re.escape(str(missing))):
            BPETokenizer.load(missing)


def test_an_altered_or_missing_vocabulary_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTLIB_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="vocab.bpe is missing"):
        BPETokenizer.gpt2()
    (tmp_path / "gpt2").mkdir()
    shutil.copy(DATA / "gpt2" / "vocab.bpe", tmp_path / "gpt2")
    assert BPETokenizer.gpt2().vocab_size == 50257
    with open(tmp_path / "gpt2" / "vocab.bpe", "ab") as file:
        file.write(b"a b\n")
    with pytest.raises(ValueError, match="vocab.bpe differs from"):
        BPETokenizer.gpt2()
