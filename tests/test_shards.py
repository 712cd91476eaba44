"""Shards: every document of every kind of file once, whole, in one set; what is broken is named; nothing is lost."""

import bz2
import csv
import gzip
import hashlib
import importlib.util
import json
import lzma
import os
import random
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from test_tokenizers import by_tiktoken, gpt2s_tokens

import gptlib
from conftest import full_disk
from gptlib import documents as reading
from gptlib import shards
from gptlib.bpe import END_OF_TEXT, BPETokenizer, pieces, pre_tokenize
from gptlib.documents import PART, BadRecord
from gptlib.shards import Shards, documents, prepare
from gptlib.tokenizers import CharTokenizer, WordTokenizer

DATA = Path(__file__).resolve().parents[1] / "data"
TEXTS = ["one\ntwo\n", 'naïve "東京", said\r\nCicero; and 👩‍🚀', " three  words ", "\u2028 a, b\t{}"]
COMPRESS = {"": lambda data: data, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(rows)])


def write_parquet(path, rows):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"id": range(len(rows)), "text": rows}), path)


def as_lines(rows, ascii_only=False):
    return "".join(json.dumps({"id": i, "text": text}, ensure_ascii=ascii_only) + "\n" for i, text in enumerate(rows))


WRITERS = {
    ".json": lambda path, rows: path.write_text(json.dumps([{"text": row} for row in rows]), encoding="utf-8"),
    ".jsonl": lambda path, rows: path.write_text(as_lines(rows), encoding="utf-8", newline=""),
    ".csv": write_csv,
    ".parquet": write_parquet,
}


@pytest.fixture(scope="module")
def bpe():
    return BPETokenizer.train(gptlib.load_text("kennedy")[:50_000], 400)


@pytest.fixture(scope="module")
def varied():
    """300 documents of many lengths, one of them longer than a part."""
    rng, words = random.Random(0), gptlib.load_text("lincoln").split(" ")
    texts = [" ".join(rng.choices(words, k=rng.choice([1, 5, 30, 200]))) for _ in range(300)]
    texts[77] = " ".join(rng.choices(words, k=60_000))
    assert len(texts[77]) > PART
    return texts


def quiet(source, folder, tokenizer, **options):
    return prepare(source, folder, tokenizer, progress=False, **options)


def ids_of(folder, name):
    """All ids of a set, read without `Shards`."""
    manifest = json.loads((folder / "manifest.json").read_text())
    dtype = np.uint16 if manifest["vocab_size"] <= 65536 else np.uint32
    files = [np.frombuffer((folder / shard["file"]).read_bytes(), dtype) for shard in manifest[name]["shards"]]
    assert [len(file) for file in files] == [shard["tokens"] for shard in manifest[name]["shards"]]
    return np.concatenate([np.array([], dtype), *files]).tolist()


def set_of(text, seed=0, val_fraction=0.1):
    """The rule that the module states."""
    share = int(hashlib.sha256(f"{seed} {text[:262_144]}".encode()).hexdigest()[:16], 16) / 16**16
    return "val" if share < val_fraction else "train"


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("ending", WRITERS)
def test_documents_of_every_kind_of_file(ending, compression, tmp_path):
    plain = tmp_path / f"plain{ending}"
    WRITERS[ending](plain, TEXTS)
    path = tmp_path / f"file{ending}{compression}"
    path.write_bytes(COMPRESS[compression](plain.read_bytes()))
    assert list(documents(path)) == TEXTS


def test_a_folder_is_read_in_order_of_names_with_its_subfolders(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    for name in ("b/c/1.txt", "a.txt", "b/2.txt", "c.txt.gz"):
        (tmp_path / name).write_bytes((gzip.compress if name.endswith("gz") else bytes)(name.encode()))
    for name in (".DS_Store", ".git/config"):
        (tmp_path / name).write_bytes(b"\xff")
    assert list(documents(tmp_path)) == ["a.txt", "b/2.txt", "b/c/1.txt", "c.txt.gz"]


def test_other_forms_of_the_same_documents(tmp_path):
    (tmp_path / "bom.jsonl").write_text("\ufeff\n" + as_lines(TEXTS, True) + "\n  \n", encoding="utf-8", newline="\r\n")
    (tmp_path / "strings.json").write_text(json.dumps(TEXTS, indent=3), encoding="utf-8")
    (tmp_path / "none.json").write_text(" [ ]\n")
    (tmp_path / "other.csv").write_text('"what, said"\r\n"a\n""b"""\r\nc', newline="")
    assert list(documents(tmp_path / "bom.jsonl")) == TEXTS == list(documents(tmp_path / "strings.json"))
    assert list(documents(tmp_path / "none.json")) == []
    assert list(documents(tmp_path / "other.csv", field="what, said")) == ['a\n"b"', "c"]


def test_a_separator_divides_a_text_wherever_the_parts_end(tmp_path):
    texts = [" ".join(map(str, range(n))) + "\r\n" for n in (5, PART // 3, 1, 4 * PART // 10)]
    (tmp_path / "a.txt").write_text("<|end|>".join(texts) + "<|end|>", newline="")
    assert list(documents(tmp_path / "a.txt", separator="<|end|>")) == texts
    assert list(documents(tmp_path / "a.txt")) == ["<|end|>".join(texts) + "<|end|>"]


def test_a_list_in_json_is_decoded_across_parts(tmp_path, monkeypatch):
    items = [{"text": "x" * n, "more": [1, {"a": "]"}]} for n in range(60)]
    for part in (1, 7, 64):
        monkeypatch.setattr("gptlib.documents.PART", part)
        for indent in (None, 2):
            (tmp_path / "a.json").write_text(json.dumps(items, indent=indent))
            assert list(documents(tmp_path / "a.json")) == [item["text"] for item in items]


# ---------------------------------------------------------------- what is broken

# file: (content, what is said, documents that can be used, documents that cannot)
BROKEN = {
    "a.jsonl": (
        b'{"text": "a"}\n\n{"text": "b}\n{"text": "c"}',
        "a.jsonl, line 3: this is not JSON .column 13",
        2,
        1,
    ),
    "b.jsonl": (b'{"text": "a"}\n{"words": "b", "id": 1}\n', "line 2: .*no field 'text', only words, id", 1, 1),
    "c.jsonl": (b'{"text": "a"}\n{"text": null}\n', "line 2: None is not a text", 1, 1),
    "d.jsonl": (b'{"text": "a"}\n["b"]\n"c"\n', r"line 2: \['b'\] is not a text", 2, 1),
    "e.jsonl": (b'{"text": "a"}\n{"text": "\xe9"}\n{"text": "b"}\n', "line 2: this is not UTF-8", 2, 1),
    "f.jsonl": (b'{"text": "a"}\n{"text": "\\ud83d"}\n', "line 2: this is not UTF-8", 1, 1),
    "g.csv": (b'id,text\n1,"a\nb"\n2,c, d\n3,e\n', "g.csv, line 4: 3 values for 2 columns", 2, 1),
    "h.csv": (b"id,text\n1\n2,a\n", "line 2: 1 values for 2 columns", 1, 1),
    "i.csv": (b'id,text\n1,a\n2,"b\n3,c\n', "line 3: unexpected end of data", 1, 1),
    "j.csv": (b'id,text\n1,"a"b\n2,c\n', "line 2: ',' expected after '\"'", 1, 1),
    "k.csv": (b"id,text\n1,a\n2,\xe4\n3,c\n", "line 3: this is not UTF-8", 2, 1),
    "l.json": (b'["a",\n 3,\n{"txt": "b"}]', "l.json, line 2: 3 is not a text", 1, 2),
    "m.txt": (b"a\nb\n\xff\n", "m.txt, line 3: this is not UTF-8", 0, 1),
    "n.txt": ("a\n".encode("utf-16"), "n.txt, line 1: this is not UTF-8", 0, 1),
    "o.docx": (b"PK", "o.docx, line 1: the file's name ends in none of .txt, ", 0, 1),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_document_is_named_refused_or_skipped_and_counted(name, tmp_path):
    content, message, whole, broken = BROKEN[name]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    (tmp_path / "in" / "0.txt").write_text("fine")
    with pytest.raises(BadRecord, match=message):
        list(documents(tmp_path / "in"))
    with pytest.raises(BadRecord, match=message):
        quiet(tmp_path / "in", tmp_path / "out", CharTokenizer("abcdefin\n"), val_fraction=0)
    assert not (tmp_path / "out" / "manifest.json").exists()
    manifest = quiet(tmp_path / "in", tmp_path / "new", CharTokenizer("abcdefin\n"), val_fraction=0, skip_bad=True)
    assert manifest["train"]["documents"] == whole + 1
    assert manifest["skipped"]["broken"] == len(manifest["skipped"]["first"]) == broken
    assert re.search(message, manifest["skipped"]["first"][0]) and manifest["skipped"]["empty"] == 0


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.json", b'["a", "b"', "a.json cannot be read to its end: from line 1 on it is not a list"),
        ("b.json", b'["a",\n "b" "c"]', "from line 2 on"),
        ("c.json", b'{"text": "a"}', "from line 1 on"),
        ("d.txt.gz", gzip.compress(b"abc" * 1000, mtime=0)[:-20], "d.txt.gz cannot be read"),
        ("e.jsonl.xz", lzma.compress(as_lines(["a"] * 999).encode())[:-50], "e.jsonl.xz cannot be read"),
        ("f.txt.bz2", b"no archive", "f.txt.bz2 cannot be read"),
        ("g.parquet", b"no table", "g.parquet cannot be read"),
    ],
)
def test_what_hides_the_rest_of_a_file_is_always_refused(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    for skip_bad in (False, True):
        with pytest.raises(ValueError, match=message):
            quiet(tmp_path / name, tmp_path / "out", CharTokenizer("abc\n"), val_fraction=0, skip_bad=skip_bad)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_missing_column_is_named(tmp_path):
    write_parquet(tmp_path / "a.parquet", ["a"])
    with pytest.raises(ValueError, match="a.parquet.*no column 'words', only id, text"):
        list(documents(tmp_path / "a.parquet", field="words"))
    write_parquet(tmp_path / "b.parquet", ["a", None, "c"])
    with pytest.raises(BadRecord, match="b.parquet, row 2: None is not a text"):
        list(documents(tmp_path / "b.parquet"))


def test_without_pyarrow_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    write_parquet(tmp_path / "a.parquet", ["a"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        list(documents(tmp_path / "a.parquet"))


def test_a_character_that_the_tokenizer_lacks_is_named_with_its_line(tmp_path):
    (tmp_path / "a.txt").write_text("ab\n" * PART + "a\nbé\n")
    with pytest.raises(BadRecord, match=f"a.txt, line {PART + 2}: 'é' at position 1 is not in the vocabulary of 3"):
        quiet(tmp_path / "a.txt", tmp_path / "out", CharTokenizer("ab\n"), val_fraction=0)
    (tmp_path / "b.jsonl").write_text(as_lines(["a\nb", "a\né"]))
    with pytest.raises(BadRecord, match="b.jsonl, line 2: 'é'"):
        quiet(tmp_path / "b.jsonl", tmp_path / "out2", CharTokenizer("ab\n"), val_fraction=0)


@pytest.mark.parametrize("end", ["é".encode(), b"\xe9"])
def test_what_is_broken_after_the_first_part_is_refused_in_any_case(end, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"ab\n" * PART + end)
    with pytest.raises(BadRecord, match=f"a.txt, line {PART + 1}: "):
        quiet(tmp_path / "a.txt", tmp_path / "out", CharTokenizer("ab\n"), val_fraction=0, skip_bad=True)


@pytest.mark.parametrize("empty", ["", " \n\t", "\u3000"])
def test_an_empty_document_is_skipped_and_counted(empty, bpe, tmp_path):
    (tmp_path / "a.jsonl").write_text(as_lines(["one", empty, "two", empty]))
    manifest = quiet(tmp_path / "a.jsonl", tmp_path / "out", bpe, val_fraction=0)
    assert manifest["train"]["documents"] == 2 and manifest["skipped"]["empty"] == 2
    assert manifest["skipped"]["first"][0].endswith("a.jsonl, line 2: an empty document")
    end = bpe.encode(END_OF_TEXT, [END_OF_TEXT])
    assert ids_of(tmp_path / "out", "train") == bpe.encode("one") + end + bpe.encode("two") + end


def test_a_source_without_a_document_is_refused(bpe, tmp_path):
    (tmp_path / "empty").mkdir()
    for source in ("empty", "missing.txt"):
        with pytest.raises(FileNotFoundError, match=f"there is no file in .*{source}"):
            quiet(tmp_path / source, tmp_path / "out", bpe)
    (tmp_path / "a.jsonl").write_text(as_lines([" "]))
    with pytest.raises(ValueError, match="the train set has no document"):
        quiet(tmp_path / "a.jsonl", tmp_path / "out", bpe)


# ---------------------------------------------------------------- preparing


@pytest.mark.parametrize("kind", ["char", "word", "bpe", "bpe without end"])
@pytest.mark.parametrize("shard_tokens", [1000, 10**6])
def test_the_shards_hold_the_ids_of_every_document_in_order(kind, shard_tokens, varied, bpe, tmp_path):
    texts = varied if shard_tokens > 1000 else varied[:30]
    whole = "".join(varied)
    tokenizer = {
        "char": lambda: CharTokenizer(whole + "\n"), "word": lambda: WordTokenizer(whole + "\n", 500),
        "bpe": lambda: bpe, "bpe without end": lambda: BPETokenizer([(b"t", b"h")], []),
    }[kind]()  # fmt: skip
    (tmp_path / "a.jsonl").write_text(as_lines(texts))
    manifest = quiet(tmp_path / "a.jsonl", tmp_path / "out", tokenizer, shard_tokens=shard_tokens)
    end = tokenizer.encode(END_OF_TEXT, [END_OF_TEXT]) if kind == "bpe" else tokenizer.encode("\n\n")
    for name in ("train", "val"):
        own = [text for text in texts if set_of(text) == name]
        assert ids_of(tmp_path / "out", name) == [i for text in own for i in [*tokenizer.encode(text), *end]]
        found = manifest[name]
        assert (found["documents"], found["characters"]) == (len(own), sum(map(len, own)))
        assert all(shard["tokens"] == shard_tokens for shard in found["shards"][:-1])
    saved = shards.load_tokenizer(tmp_path / "out")
    assert type(saved) is type(tokenizer) and saved.vocabulary == tokenizer.vocabulary


@pytest.mark.parametrize("vocab_size, size", [(65_536, 2), (65_537, 4)])
def test_ids_above_65535_take_four_bytes(vocab_size, size, tmp_path):
    characters = ["\n", *(chr(0x20000 + i) for i in range(vocab_size - 1))]
    (tmp_path / "a.txt").write_text(characters[-1] + "\n", encoding="utf-8")
    quiet(tmp_path / "a.txt", tmp_path / "out", CharTokenizer("".join(characters)), val_fraction=0)
    expected = [vocab_size - 1, 0, 0, 0]
    assert (tmp_path / "out" / "train-00000.bin").read_bytes() == b"".join(i.to_bytes(size, "little") for i in expected)
    assert Shards(tmp_path / "out").batch([0], 3)[0].tolist() == [expected[:3]]


def test_a_document_is_in_one_set_and_the_seed_chooses(varied, bpe, tmp_path):
    (tmp_path / "a.jsonl").write_text(as_lines([*varied[:60], *varied[:60]]))
    (tmp_path / "b.jsonl").write_text(as_lines(varied[59::-1]))
    chosen = {}
    for name, source, options in [
        ("a", "a", {}), ("b", "b", {}), ("seed", "b", {"seed": 1}), ("half", "b", {"val_fraction": 0.5})
    ]:  # fmt: skip
        quiet(tmp_path / f"{source}.jsonl", tmp_path / name, bpe, **options)
        texts = bpe.decode(ids_of(tmp_path / name, "val")).split(END_OF_TEXT)[:-1]
        assert set(texts).isdisjoint(bpe.decode(ids_of(tmp_path / name, "train")).split(END_OF_TEXT)[:-1])
        chosen[name] = set(texts)
    assert chosen["a"] == chosen["b"] != chosen["seed"] and chosen["b"] < chosen["half"]
    assert 20 <= len(chosen["half"]) <= 40


def test_settings_that_cannot_be_are_refused(bpe, tmp_path):
    (tmp_path / "a.txt").write_text("one")
    with pytest.raises(ValueError, match="a.txt is one document.*separator"):
        quiet(tmp_path / "a.txt", tmp_path / "out", bpe)
    for options in ({"val_fraction": 1}, {"val_fraction": -0.1}, {"shard_tokens": 1}):
        with pytest.raises(ValueError, match="val_fraction=.*shard_tokens="):
            quiet(tmp_path / "a.txt", tmp_path / "out", bpe, **options)
    with pytest.raises(ValueError, match="inside the source"):
        quiet(tmp_path, tmp_path / "out", bpe)
    with pytest.raises(ValueError, match="neither .* nor the newline"):
        quiet(tmp_path / "a.txt", tmp_path / "out", CharTokenizer("one"), val_fraction=0)
    assert sorted(path.name for path in tmp_path.iterdir()) in (["a.txt"], ["a.txt", "out"])


def test_a_second_preparation_writes_nothing_and_another_one_is_refused(bpe, tmp_path):
    (tmp_path / "a.txt").write_text("one two three")
    first = quiet(tmp_path / "a.txt", tmp_path / "out", bpe, val_fraction=0)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert quiet(tmp_path / "a.txt", tmp_path / "out", bpe, val_fraction=0) == first
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    with pytest.raises(ValueError, match="shards with other tokenizer, vocab_size, seed: "):
        quiet(tmp_path / "a.txt", tmp_path / "out", CharTokenizer("one two three\n"), val_fraction=0, seed=1)
    (tmp_path / "a.txt").write_text("one two four")
    with pytest.raises(ValueError, match="shards with other sources"):
        quiet(tmp_path / "a.txt", tmp_path / "out", bpe, val_fraction=0)


# ---------------------------------------------------------------- interrupted


class Stop(Exception):
    pass


@contextmanager
def small_parts():
    """Texts are read in parts of 5,000 characters."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (shards, reading):
            patch.setattr(module, "PART", 5000)
        yield


@pytest.fixture(scope="module")
def mixed(varied, tmp_path_factory):
    """Documents with empty and broken ones between, and a long one in a text file."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "in").mkdir()
    rows = as_lines([text[:5000] for text in varied]).splitlines(keepends=True)
    rows[10::40] = ['{"text": ""}\n'] * len(rows[10::40])
    rows[20::50] = ["{\n"] * len(rows[20::50])
    (folder / "in" / "a.jsonl").write_text("".join(rows))
    (folder / "in" / "b.txt").write_text(varied[77][:50_000])
    (folder / "in" / "c.csv").write_bytes(b'text\n"last"\n')
    return folder


OPTIONS = {"skip_bad": True, "shard_tokens": 15_000, "val_fraction": 0.3}


@pytest.fixture(scope="module")
def unbroken(mixed, bpe):
    with small_parts():
        quiet(mixed / "in", mixed / "out", bpe, **OPTIONS)
    return contents(mixed / "out")


def test_an_interrupted_preparation_continues_and_ends_the_same(mixed, unbroken, bpe, tmp_path, monkeypatch):
    """It stops before each writing of a file in turn; a shard that was finished is not written again."""
    write, left, finished = shards.atomic_write, 0, set()

    def stopping(path, writer):
        nonlocal left
        if left == 0:
            raise Stop
        left -= 1
        assert path.name not in finished, f"{path.name} is written twice"
        write(path, writer)

    monkeypatch.setattr(shards, "atomic_write", stopping)
    ended, n = False, 0
    while not ended:
        folder, finished, left, n = tmp_path / str(n), set(), n, n + 1
        with small_parts():
            try:
                quiet(mixed / "in", folder, bpe, **OPTIONS)
                ended = True
            except Stop:
                if (folder / "progress.npz").is_file():
                    state = json.loads(str(np.load(folder / "progress.npz")["state"]))
                    finished = {shard["file"] for name in ("train", "val") for shard in state[name]["shards"]}
                left = -1
                quiet(mixed / "in", folder, bpe, **OPTIONS)
        assert contents(folder) == unbroken
    assert n > 15 and len(finished) == 0


def test_a_killed_preparation_continues_and_ends_the_same(mixed, unbroken, bpe, tmp_path):
    bpe.save(tmp_path / "merges.txt")
    program = (
        "import sys, time; from gptlib import documents, shards; documents.PART = shards.PART = 5000; "
        "write = shards.atomic_write; shards.atomic_write = lambda *a: (time.sleep(0.02), write(*a)); "
        "shards.main(sys.argv[1:])"
    )
    options = ["--skip-bad", "--shard-tokens", "15000", "--val-fraction", "0.3", "--tokenizer", str(tmp_path)]
    command = [sys.executable, "-c", program, str(mixed / "in"), str(tmp_path / "out"), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len([*tmp_path.glob("out/*.bin")]) < 3:
        time.sleep(0.002)
    process.kill()
    assert process.wait() != 0 and not (tmp_path / "out" / "manifest.json").exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == unbroken


def test_what_changed_since_the_interruption_is_noticed(mixed, bpe, tmp_path, monkeypatch):
    write = shards.atomic_write
    monkeypatch.setattr(shards, "atomic_write", lambda path, w: write(path, w) if path.stem != "manifest" else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quiet(mixed / "in", tmp_path / "out", bpe, **OPTIONS)
    with pytest.raises(ValueError, match="with other seed"):
        quiet(mixed / "in", tmp_path / "out", bpe, **OPTIONS, seed=5)
    (tmp_path / "out" / "train-00000.bin").write_bytes(b"\0" * 30_000)
    with pytest.raises(ValueError, match="train-00000.bin was altered"):
        quiet(mixed / "in", tmp_path / "out", bpe, **OPTIONS)


def test_what_was_refused_continues_with_skip_bad(mixed, unbroken, bpe, tmp_path):
    with small_parts():
        with pytest.raises(BadRecord, match="a.jsonl, line 21: this is not JSON"):
            quiet(mixed / "in", tmp_path / "out", bpe, **OPTIONS | {"skip_bad": False})
        quiet(mixed / "in", tmp_path / "out", bpe, **OPTIONS)
    assert contents(tmp_path / "out") == unbroken


def test_other_settings_are_free_until_there_is_a_shard(bpe, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"words": "one"}\n{"words": "two"}\n')
    with pytest.raises(BadRecord, match="no field 'text'"):
        quiet(tmp_path / "a.jsonl", tmp_path / "out", bpe, val_fraction=0)
    quiet(tmp_path / "a.jsonl", tmp_path / "out", bpe, val_fraction=0, field="words")
    assert Shards(tmp_path / "out").n_tokens == len(bpe.encode("one") + bpe.encode("two")) + 2


def test_a_folder_with_other_files_is_left_alone(bpe, tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "merges.txt").write_text("mine")
    with pytest.raises(ValueError, match="model has other files in it"):
        quiet(tmp_path / "a.txt", tmp_path / "model", bpe, val_fraction=0)
    assert contents(tmp_path / "model") == {"merges.txt": b"mine"}


def test_a_full_disk_is_named_and_the_preparation_continues(bpe, varied, tmp_path):
    (tmp_path / "a.jsonl").write_text(as_lines(varied[:50]))
    quiet(tmp_path / "a.jsonl", tmp_path / "whole", bpe, shard_tokens=3000)
    with full_disk(), pytest.raises(OSError, match="free some space"):
        quiet(tmp_path / "a.jsonl", tmp_path / "out", bpe, shard_tokens=3000)
    quiet(tmp_path / "a.jsonl", tmp_path / "out", bpe, shard_tokens=3000)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


# ---------------------------------------------------------------- training reads


@pytest.fixture(scope="module")
def small(varied, bpe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    (folder / "a.jsonl").write_text(as_lines(varied[:60]))
    quiet(folder / "a.jsonl", folder / "out", bpe, shard_tokens=997)
    return folder / "out"


@pytest.mark.parametrize("T", [1, 8, 83, 996, 997, 5000])
def test_windows_and_tails_hold_each_prediction_once(small, T):
    for name in ("train", "val"):
        found, ids = Shards(small, name), ids_of(small, name)
        assert found.n_tokens == len(ids) and found.vocab_size == 400
        cut = [ids[start : start + 997] for start in range(0, len(ids), 997)]
        windows = [(part[i : i + T + 1]) for part in cut for i in range(0, len(part) - T, T)]
        assert found.n_windows(T) == len(windows)
        order = random.Random(0).sample(range(len(windows)), len(windows))
        x, y = found.batch(order, T)
        assert x.dtype == y.dtype == torch.int64 and x.shape == y.shape == (len(windows), T)
        assert x.tolist() == [windows[i][:-1] for i in order] and y.tolist() == [windows[i][1:] for i in order]
        tails = [part[(len(part) - 1) // T * T :] for part in cut]
        assert [tail.tolist() for tail in found.tails(T)] == [tail for tail in tails if len(tail) > 1]
        assert all(tail.dtype == torch.int64 for tail in found.tails(T))


def test_numbers_of_windows_may_repeat_and_be_a_tensor(small):
    found = Shards(small)
    x, y = found.batch(torch.tensor([3, 0, 3]), 8)
    assert torch.equal(x[0], x[2]) and not torch.equal(x[0], x[1]) and torch.equal(x[:, 1:], y[:, :-1])
    for wrong in ([-1], [found.n_windows(8)], [0, 10**9]):
        with pytest.raises(IndexError, match=f"{found.n_windows(8)} windows of 8"):
            found.batch(wrong, 8)


def test_no_map_of_a_shard_stays_open(small):
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("the system does not list what is mapped")
    found = Shards(small)
    batch = found.batch(range(found.n_windows(8)), 8)
    tails = found.tails(8)
    assert "train-0" not in maps.read_text() and batch and tails


def test_a_set_without_documents_has_no_windows(bpe, tmp_path):
    (tmp_path / "a.txt").write_text("one two three")
    quiet(tmp_path / "a.txt", tmp_path / "out", bpe, val_fraction=0)
    val = Shards(tmp_path / "out", "val")
    assert val.n_tokens == val.n_windows(8) == 0 and val.tails(8) == []


def test_shards_that_are_not_as_they_were_written_are_refused(small, tmp_path):
    shutil.copytree(small, tmp_path / "out")
    path = tmp_path / "out" / "train-00001.bin"
    good = path.read_bytes()
    path.write_bytes(good[:-2] + b"\0\0")
    with pytest.raises(ValueError, match="train-00001.bin was altered"):
        Shards(tmp_path / "out")
    Shards(tmp_path / "out", verify=False)
    path.write_bytes(good[:-2])
    for verify in (True, False):
        with pytest.raises(ValueError, match="train-00001.bin was cut"):
            Shards(tmp_path / "out", verify=verify)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="train-00001.bin"):
        Shards(tmp_path / "out")
    with pytest.raises(ValueError, match="split is 'test'"):
        Shards(tmp_path / "out", "test")
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="manifest.json: prepare"):
        Shards(tmp_path / "out")


# ---------------------------------------------------------------- the command


def test_the_command_prepares_and_says_what_was_skipped(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"words": "abc"}\n{"words": " "}\n{"words": 3}\n')
    arguments = [str(tmp_path / "a.jsonl"), str(tmp_path / "out"), "--tokenizer", "char", "--field", "words"]
    with pytest.raises(SystemExit, match="^python -m gptlib.shards: .*a.jsonl, line 3: 3 is not a text$"):
        shards.main(arguments)
    shards.main([*arguments, "--skip-bad", "--val-fraction", "0"])
    said = capsys.readouterr().out
    assert re.search("train +1 documents +3 characters +5 tokens", said) and "1 empty documents" in said
    assert "a.jsonl, line 3: 3 is not a text" in said
    assert shards.load_tokenizer(tmp_path / "out").vocabulary == ["\n", " ", "a", "b", "c"]


def test_the_command_takes_a_separator_and_a_tokenizer_of_the_course(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\n\n".join(map(str, range(100))))
    options = ["--tokenizer", "gpt2", "--separator", r"\n\n", "--val-fraction", "0.5", "--seed", "3"]
    shards.main([str(tmp_path / "a.txt"), str(tmp_path / "out"), *options])
    found = Shards(tmp_path / "out"), Shards(tmp_path / "out", "val")
    assert sum(s.n_tokens for s in found) == 200 and all(s.vocab_size == 50257 for s in found)


# ---------------------------------------------------------------- pieces of a text


def test_pieces_are_the_text_again_and_are_cut_where_no_token_is():
    rng = random.Random(0)
    signs = [
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\x1c",
        "\u2028",
        "\u3000",
        "'",
        "re",
        "s",
        "é",
        "東",
        "12",
        ".",
        "_",
        "<|endoftext|>",
    ]
    texts = ["".join(rng.choices(signs, k=rng.choice([0, 1, 3, 9, 40]))) for _ in range(1000)]
    for text in [*texts, gptlib.load_text("kennedy")[:20_000]]:
        chunks, rest = [], text
        while rest:
            n = rng.choice([1, 2, 5, 1000])
            chunks, rest = [*chunks, rest[:n]], rest[n:]
        found = list(pieces(chunks))
        assert "".join(found) == text
        for split in (pre_tokenize, WordTokenizer.split):
            assert [token for piece in found for token in split(piece)] == split(text)


def test_a_text_that_arrives_in_chunks_has_the_ids_of_the_whole():
    gpt2, text = BPETokenizer.gpt2(), gptlib.load_text("shakespeare")[:100_000] + "東京 naïve 👩‍🚀\r\n \t x'" * 50
    theirs = by_tiktoken(gpt2s_tokens()).encode_ordinary(text)
    for size in (1, 3, 1000):
        chunks = (text[i : i + size] for i in range(0, len(text), size))
        parts = gpt2.encode_iterable(chunks)
        assert [i for ids in parts for i in ids] == theirs
    assert list(gpt2.encode_iterable([])) == [[]]


def test_pieces_are_not_longer_than_what_arrives_at_once():
    assert max(map(len, pieces(iter(["word " * 100] * 100)))) <= 505


# ---------------------------------------------------------------- the factbook


def test_the_factbook_is_clean_text_about_each_country():
    rows = [json.loads(line) for line in gzip.open(DATA / "factbook" / "factbook.jsonl.gz", "rt", encoding="utf-8")]
    spec = importlib.util.spec_from_file_location("make", DATA / "factbook" / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.clean("<b>note:</b> 5&nbsp;km<br />wide &lt;1%") == "note: 5 km wide <1%"
    keys = [(row["country"], row["section"]) for row in rows]
    assert len(set(keys)) == len(rows) and [country for country, _ in keys] == sorted(country for country, _ in keys)
    for row in rows:
        title, *lines, last = row["text"].split("\n")
        assert title == f"{row['country']}: {row['section']}" and lines and last == ""
        assert all(line == " ".join(line.split()) and len(line.split()) > make.FEWEST for line in lines)
        assert not re.search(r"</?[a-z]+[ >]|&\w+;", row["text"])
    assert list(documents(DATA / "factbook" / "factbook.jsonl.gz")) == [row["text"] for row in rows]


def test_linked_folders_are_read_and_unreadable_ones_refused(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "B.TXT").write_text("two", encoding="utf-8")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("one", encoding="utf-8")
    (tmp_path / "texts" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert list(documents(tmp_path / "texts")) == ["one", "two"]
    (tmp_path / "texts" / "closed").mkdir()
    scan = os.scandir

    def closed(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError, match="closed"):
        list(documents(tmp_path / "texts"))


def test_a_manifest_of_something_else_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="no manifest of gptlib.shards"):
        Shards(tmp_path)
