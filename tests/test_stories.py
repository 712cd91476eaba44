"""stories15M against transformers, which reads its file too, and its tokenizer against SentencePiece itself."""

import struct

import pytest
import torch
from test_smollm2 import samples, write_file

from gptlib import pretrained, stories
from gptlib.data import load_text
from gptlib.files import data_dir
from gptlib.smollm2 import read_gguf

gguf, sentencepiece = pytest.importorskip("gguf"), pytest.importorskip("sentencepiece")
FILE = data_dir() / stories.FILE[0]


@pytest.fixture(scope="module")
def shipped():
    return pretrained.load("stories15M")


@pytest.fixture(scope="module")
def tokenizer(shipped):
    return shipped[1]


def field(number: int, content: bytes | int) -> bytes:
    """A field of a message in the format of protocol buffers; no number here takes more than two bytes."""
    kind, size = (0, content) if isinstance(content, int) else (2, len(content))
    varints = [[n] if n < 128 else [n % 128 + 128, n // 128] for n in (number * 8 + kind, size)]
    return bytes(varints[0] + varints[1]) + (content if isinstance(content, bytes) else b"")


@pytest.fixture(scope="module")
def theirs():
    """The vocabulary as a model of SentencePiece (src/sentencepiece_model.proto): BPE with bytes, no normalization."""
    fields, _ = read_gguf(FILE)
    pieces = zip(*(fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type")))
    model = b"".join(
        field(1, field(1, token.encode("utf-8")) + b"\x15" + struct.pack("<f", score) + field(3, kind))
        for token, score, kind in pieces
    )
    model += field(2, field(3, 2) + field(35, 1))  # model_type BPE, byte_fallback
    model += field(3, field(1, b"identity") + field(3, 1) + field(4, 0) + field(5, 1))  # a space before the text
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def test_ids_are_those_of_sentencepiece(tokenizer, theirs):
    texts = (
        samples(500) + [f"a{' ' * n}the{' ' * (n // 2)}\r" for n in range(70)] + ["", "<s> </s> <unk> <0x0A>", "▁a ▁"]
    )
    for text in [
        *texts,
        load_text("lincoln"),
        load_text("shakespeare")[:100_000],
        FILE.with_name("make.py").read_text(),
    ]:
        ids = tokenizer.encode(text)
        assert ids == theirs.encode(text), repr(text[:60])
        assert tokenizer.decode(ids) == theirs.decode(ids) == text.replace("▁", " ")


def test_the_vocabulary_is_that_of_the_file(tokenizer, theirs):
    assert tokenizer.vocab_size == len(tokenizer.vocabulary) == theirs.vocab_size() == 32000
    assert tokenizer.special_tokens == ("<s>", "</s>") and tokenizer.vocabulary[:3] == [b"<unk>", b"<s>", b"</s>"]
    assert tokenizer.vocabulary[3:259] == [bytes([byte]) for byte in range(256)]
    for i in range(259, 32000):
        assert tokenizer.vocabulary[i].decode() == theirs.id_to_piece(i).replace("▁", " ")
        assert tokenizer.scores[theirs.id_to_piece(i)] == theirs.get_score(i)
    assert not any(b" " in token.lstrip(b" ") for token in tokenizer.vocabulary), "words are merged one by one"


def test_special_tokens_and_the_space_after_them(tokenizer, theirs):
    text = "<s>Once upon a time<s> The end</s>"
    ids = tokenizer.encode(text, ["</s>", "<s>"])
    assert ids == [1, *theirs.encode("Once upon a time"), 1, *theirs.encode(" The end"), 2]
    assert tokenizer.decode(ids) == text and tokenizer.decode(torch.tensor(ids)) == text
    assert tokenizer.encode(text, ["</s>"]) == [*theirs.encode(text[:-4]), 2]
    assert tokenizer.encode("<s></s>", ["<s>"]) == [1, *theirs.encode("</s>")]
    assert tokenizer.encode("<s>", ["<s>"]) == [1] and tokenizer.decode([]) == ""
    assert tokenizer.decode(tokenizer.encode("東𝄞")[1:-1]) == "東\N{REPLACEMENT CHARACTER}"
    with pytest.raises(
        ValueError, match=r"'<0x0A>' is no special token; allowed_special is a list of \('<s>', '</s>'\)"
    ):
        tokenizer.encode("a", ["<0x0A>"])
    with pytest.raises(ValueError, match="token id 32000 at position 1 is outside the vocabulary"):
        tokenizer.decode([1, 32000])
    with pytest.raises(TypeError, match="a tokenizer encodes text, got bytes"):
        tokenizer.encode(b"text")


def test_logits_are_those_of_transformers(shipped):
    transformers = pytest.importorskip("transformers")
    model, tokenizer = shipped
    theirs = transformers.LlamaForCausalLM.from_pretrained(FILE.parent, gguf_file=FILE.name, dtype=torch.float32)
    idx = torch.tensor([tokenizer.encode("<s>Once upon a time, there was a 東京 in 1,234 boxes.\n\n", ["<s>"])])
    with torch.no_grad():
        torch.testing.assert_close(model(idx), theirs(idx).logits, rtol=1e-4, atol=1e-3)
        cache = model.make_cache(1)
        parts = torch.cat([model(part, cache) for part in idx.split([5, 1, idx.shape[1] - 6], dim=1)], dim=1)
        torch.testing.assert_close(parts, theirs(idx).logits, rtol=1e-4, atol=1e-3)
        assert tokenizer.vocabulary[model(torch.tensor([[1]]))[0, 0].argmax()] == b" Once"
    assert not model.training and model.lm_head.weight is model.token_embedding.weight
    assert sum(parameter.numel() for parameter in model.parameters()) == theirs.num_parameters()


def test_the_metadata_is_what_a_reader_of_gguf_needs():
    fields = gguf.GGUFReader(FILE).fields
    T = gguf.TokenType
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert fields["tokenizer.ggml.model"].contents() == "llama" and fields["general.license"].contents() == "mit"
    assert kinds == [T.UNKNOWN, T.CONTROL, T.CONTROL] + [T.BYTE] * 256 + [T.NORMAL] * 31741
    ids = [fields[f"tokenizer.ggml.{name}_token_id"].contents() for name in ("unknown", "bos", "eos")]
    assert ids == [0, 1, 2] and fields["tokenizer.ggml.add_space_prefix"].contents() is True


def test_files_that_are_missing_altered_or_of_another_kind(tmp_path, monkeypatch):
    write_file(tmp_path / "other.gguf")
    with pytest.raises(ValueError, match="tokenizer.ggml.model is 'gpt2', but it can only be 'llama' here"):
        stories.load(tmp_path / "other.gguf")
    head = FILE.open("rb").read(500)
    (tmp_path / "stories15M").mkdir()
    for length in (0, 3, 100, 500):
        (tmp_path / stories.FILE[0]).write_bytes(head[:length])
        with pytest.raises(ValueError, match=r"stories15M.gguf cannot be loaded .*: it is damaged, or of another kind"):
            stories.load(tmp_path / stories.FILE[0])
    monkeypatch.setenv("GPTLIB_DATA", str(tmp_path))
    for load in pretrained.load, pretrained.load_tokenizer:
        with pytest.raises(ValueError, match=r"stories15M.gguf differs from the file of the course: restore it \(git"):
            load("stories15M")
    (tmp_path / stories.FILE[0]).unlink()
    with pytest.raises(FileNotFoundError, match=r"stories15M.gguf is missing: restore it \(git checkout "):
        pretrained.load("stories15M")
    with pytest.raises(FileNotFoundError, match="pass shakespeare-gpt, .*, stories15M, smollm2, gpt2-124M"):
        pretrained.load("stories")


def test_its_tokenizer_has_no_file_of_its_own(shipped, tmp_path):
    assert pretrained.load_tokenizer("stories15M").vocabulary == shipped[1].vocabulary
    with pytest.raises(ValueError, match="cannot hold the scores of SentencePiece: save an adapter"):
        pretrained.save(*shipped, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
