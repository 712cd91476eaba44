"""Shards: the token ids of texts larger than memory, encoded once, in files that training reads in windows.

`prepare` encodes `documents` and `Shards` reads what it wrote. The rules:

- Each document is followed by the token <|endoftext|>, or by a blank line where the tokenizer has no such token.
- The SHA-256 hash of the seed and the document's first 262,144 characters decides whether it is in the validation set,
  with probability `val_fraction`. So no document is in both sets, however often it occurs.
- A document without any character but spaces is skipped and counted. One that is broken (a line that is no JSON, a
  missing field, bytes that are not UTF-8, a character that the tokenizer lacks, a file of another kind) is refused with
  its file and line, or with `skip_bad` skipped and counted. Damage that hides the rest of a file is always refused, and
  so is what is broken after the first 262,144 characters, which are then encoded already.
- A shard holds ids as little-endian uint16, or uint32 above 65,536 tokens. `manifest.json` is written last.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gptlib.bpe import END_OF_TEXT, BPETokenizer, pieces
from gptlib.documents import PART, BadRecord, Document, kind, read, source_files
from gptlib.documents import documents as documents
from gptlib.files import atomic_write
from gptlib.pretrained import Tokenizer, load_tokenizer, to_json, tokenizer_files
from gptlib.tokenizers import CharTokenizer

SETS = ("train", "val")


def prepare(
    source: str | Path, folder: str | Path, tokenizer: Tokenizer, *, field: str = "text", separator: str | None = None,
    val_fraction: float = 0.1, seed: int = 0, shard_tokens: int = 2**22, skip_bad: bool = False, progress: bool = True,
) -> dict:  # fmt: skip
    """Encode the documents of `source` into shards of `shard_tokens` in `folder`, and return the manifest.

    After an interruption, the same call continues at the last full shard, and the files become the same. Raises
    BadRecord for a broken document, ValueError for a damaged file or a folder with other shards, and OSError when the
    folder cannot be written.
    """
    source, folder, files = Path(source), Path(folder), source_files(source)
    if not 0 <= val_fraction < 1 or shard_tokens < 2:
        raise ValueError(f"val_fraction={val_fraction} is from 0 to below 1, shard_tokens={shard_tokens} at least 2")
    if source.resolve() in [folder.resolve(), *folder.resolve().parents]:
        raise ValueError(f"{folder} lies inside the source {source}: name another folder")
    if val_fraction and separator is None and [kind(path) for path in files] == [".txt"]:
        raise ValueError(f"{source} is one document, and one cannot be split: pass its separator, or val_fraction=0")
    root, tokenizer_data = source if source.is_dir() else source.parent, tokenizer_files(tokenizer)
    sizes = [path.stat().st_size for path in files]
    settings = {
        "sources": [
            {"file": path.relative_to(root).as_posix(), "bytes": size, "sha256": sha256(path)}
            for path, size in zip(files, sizes)
        ],
        "tokenizer": hashlib.sha256(b"".join(tokenizer_data.values())).hexdigest(),
        "vocab_size": tokenizer.vocab_size, "field": field, "separator": separator, "val_fraction": val_fraction,
        "seed": seed, "shard_tokens": shard_tokens,
    }  # fmt: skip
    if (folder / "manifest.json").is_file():
        return same(read_manifest(folder), settings, folder)
    folder.mkdir(parents=True, exist_ok=True)
    run = Preparation(root, folder, tokenizer, settings, skip_bad)
    for name, content in tokenizer_data.items():
        atomic_write(folder / name, partial(Path.write_bytes, data=content))
    with tqdm(total=sum(sizes), unit="B", unit_scale=True, disable=not progress) as bar:
        for document in islice(read(files, field, separator, bar.update), run.state["done"], None):
            run.add(document)
    return run.finish()


def same(stored: dict, settings: dict, folder: Path) -> dict:
    """What is `stored`; raises ValueError when it was made with other `settings`."""
    if other := [name for name, value in settings.items() if stored.get(name) != value]:
        raise ValueError(f"{folder} holds shards with other {', '.join(other)}: name another folder, or delete it")
    return stored


class Preparation:
    """Documents on their way into shards: full ones are written, and the ids of the next ones wait in memory."""

    def __init__(self, root: Path, folder: Path, tokenizer: Tokenizer, settings: dict, skip_bad: bool):
        self.root, self.folder, self.tokenizer = root, folder, tokenizer
        self.settings, self.skip_bad = settings, skip_bad
        self.end, self.dtype = end_ids(tokenizer), dtype_for(tokenizer.vocab_size)
        self.waiting = {name: np.empty(settings["shard_tokens"], self.dtype) for name in SETS}
        self.state: dict = {"done": 0, "pieces": 0, "skipped": {"empty": 0, "broken": 0, "first": []}}
        self.state |= {name: {"documents": 0, "characters": 0, "tokens": 0, "shards": []} for name in SETS}
        if (folder / "progress.npz").is_file():
            for unfinished in chain(*(folder.glob(f".{name}-*") for name in ("progress.npz", *SETS))):
                shutil.rmtree(unfinished)  # what was being written when a process was killed
            with np.load(folder / "progress.npz") as saved:
                before = json.loads(str(saved["state"]))
                for name in SETS if any(before[name]["shards"] for name in SETS) else ():
                    self.state = same(before, settings, folder)
                    self.waiting[name][: len(saved[name])] = saved[name]
                    check_shards(folder, before[name]["shards"], self.dtype)
        elif any(folder.glob("[!.]*")):
            raise ValueError(f"{folder} has other files in it: name another folder")
        self.save()

    def add(self, document: Document) -> None:
        """Encode a document, or skip it. The state counts documents that are done, and pieces of the next one."""
        state, newlines, full = self.state, 0, False
        try:
            parts = document.parts()
            first = next(parts, "")
            if not first.strip() and len(first) < PART:
                self.skip("empty", document.bad("an empty document"))
            else:
                share = int.from_bytes(hashlib.sha256(f"{self.settings['seed']} {first}".encode()).digest()[:8], "big")
                name = "val" if share < self.settings["val_fraction"] * 2**64 else "train"
                whole = pieces(chain([first], parts)) if len(first) == PART else [first]
                for number, piece in enumerate(whole, start=1):
                    if number > state["pieces"]:  # the others were encoded before an interruption
                        ids = self.encode(document, piece, newlines)
                        state["pieces"] = number
                        state[name]["characters"] += len(piece)
                        if self.extend(name, ids):
                            self.save()
                    newlines += piece.count("\n")
                full = self.extend(name, self.end)
                state[name]["documents"] += 1
        except BadRecord as error:
            if state["pieces"] or not self.skip_bad:
                raise
            self.skip("broken", error)
        state.update(done=state["done"] + 1, pieces=0)
        if full:
            self.save()

    def encode(self, document: Document, piece: str, newlines: int) -> np.ndarray:
        """The ids of a piece after so many newlines of the text; raises BadRecord for what the tokenizer lacks."""
        try:
            return np.array(self.tokenizer.encode(piece), self.dtype)
        except ValueError as error:
            for number, line in enumerate(piece.split("\n"), start=newlines):
                try:
                    self.tokenizer.encode(line)
                except ValueError as found:
                    raise document.bad(found, number) from None
            raise document.bad(error, newlines) from None  # it lacks the newline

    def extend(self, name: str, ids: np.ndarray) -> bool:
        """Add ids to a set; returns whether that filled a shard."""
        found, waiting = self.state[name], self.waiting[name]
        before = len(found["shards"])
        while len(ids):
            start = found["tokens"] % len(waiting)
            now, ids = ids[: len(waiting) - start], ids[len(waiting) - start :]
            waiting[start : start + len(now)] = now
            found["tokens"] += len(now)
            if start + len(now) == len(waiting):
                self.write(name, waiting)
        return len(found["shards"]) > before

    def write(self, name: str, ids: np.ndarray) -> None:
        shards = self.state[name]["shards"]
        file = f"{name}-{len(shards):05}.bin"
        atomic_write(self.folder / file, ids.tofile)
        shards.append({"file": file, "tokens": len(ids), "sha256": hashlib.sha256(ids.data).hexdigest()})

    def rest(self, name: str) -> np.ndarray:
        """The ids that fill no shard yet."""
        return self.waiting[name][: self.state[name]["tokens"] % len(self.waiting[name])]

    def save(self) -> None:
        """Write what is needed to continue from here."""
        arrays = {"state": np.array(json.dumps(self.settings | self.state)), **{name: self.rest(name) for name in SETS}}
        atomic_write(self.folder / "progress.npz", lambda new: np.savez(new, **arrays))  # type: ignore[arg-type]

    def skip(self, why: str, error: BadRecord) -> None:
        message = str(error).removeprefix(f"{self.root}{os.sep}")  # as the manifest names the sources
        self.state["skipped"][why] += 1
        self.state["skipped"]["first"] = [*self.state["skipped"]["first"], message][:100]

    def finish(self) -> dict:
        """Write the last shards and the manifest."""
        for name in SETS if self.settings["val_fraction"] else SETS[:1]:
            if not self.state[name]["documents"]:
                raise ValueError(f"the {name} set has no document: add some, or use another seed or val_fraction")
        for name in SETS:
            if len(self.rest(name)):
                self.write(name, self.rest(name))
        manifest = self.settings | {name: self.state[name] for name in ("skipped", *SETS)}
        atomic_write(self.folder / "manifest.json", partial(Path.write_bytes, data=to_json(manifest)))
        (self.folder / "progress.npz").unlink(missing_ok=True)
        return manifest


def end_ids(tokenizer: Tokenizer) -> np.ndarray:
    """The ids that follow each document."""
    if isinstance(tokenizer, BPETokenizer) and END_OF_TEXT in tokenizer.special_tokens:
        return np.array(tokenizer.encode(END_OF_TEXT, allowed_special=[END_OF_TEXT]))
    if "\n" not in tokenizer.decode(range(tokenizer.vocab_size)):
        raise ValueError(f"the tokenizer has neither {END_OF_TEXT} nor the newline to put between documents")
    return np.array(tokenizer.encode("\n\n"))


def dtype_for(vocab_size: int) -> np.dtype:
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def check_shards(folder: Path, shards: list[dict], dtype: np.dtype, hashes: bool = True) -> None:
    """Raises ValueError, or FileNotFoundError, for the first shard that is not as it was written."""
    for shard in shards:
        path = folder / shard["file"]
        cut = path.stat().st_size != shard["tokens"] * dtype.itemsize
        if cut or hashes and sha256(path) != shard["sha256"]:
            raise ValueError(f"{path} was {'cut' if cut else 'altered'}: delete {folder} and prepare it again")


def read_manifest(folder: Path) -> dict:
    path = folder / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: prepare the shards first, to the end")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if not manifest.keys() >= {"vocab_size", *SETS}:
        raise ValueError(f"{path} is no manifest of gptlib.shards: prepare the shards again")
    return manifest


class Shards:
    """The training or the validation set ("train", "val") that `prepare` wrote into a folder.

    A window is T inputs and, one token later, T targets; the next one begins with the last target, and none crosses the
    end of a shard. Raises ValueError when a shard was cut or altered; `verify=False` compares no hashes, only sizes.
    """

    def __init__(self, folder: str | Path, split: str = "train", verify: bool = True):
        if split not in SETS:
            raise ValueError(f"split is {split!r}: use 'train' or 'val'")
        self.folder, manifest = Path(folder), read_manifest(Path(folder))
        self.vocab_size, self.n_tokens = manifest["vocab_size"], manifest[split]["tokens"]
        self.shards, self.dtype = manifest[split]["shards"], dtype_for(self.vocab_size)
        check_shards(self.folder, self.shards, self.dtype, verify)
        self.lengths = np.array([shard["tokens"] for shard in self.shards], np.int64)

    def n_windows(self, T: int) -> int:
        return int(((self.lengths - 1) // T).sum())

    def batch(self, indices: Sequence[int], T: int) -> tuple[Tensor, Tensor]:
        """The windows with these numbers (B,): inputs x (B, T) and targets y (B, T), int64."""
        numbers, counts = np.asarray(indices), (self.lengths - 1) // T  # windows in each shard
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < counts.sum():
            raise IndexError(f"there are {counts.sum()} windows of {T} tokens, but these are asked for: {numbers}")
        shard_of = counts.cumsum().searchsorted(numbers, side="right")
        starts = (numbers - (counts.cumsum() - counts)[shard_of]) * T
        windows = np.empty((len(numbers), T + 1), np.int64)
        for shard in np.unique(shard_of):
            ids = self.open(shard)
            for row in np.flatnonzero(shard_of == shard):
                windows[row] = ids[starts[row] : starts[row] + T + 1]
        batch = torch.from_numpy(windows)
        return batch[:, :-1], batch[:, 1:]

    def tails(self, T: int) -> list[Tensor]:
        """What follows the last window of each shard, from its last target on, where that leaves a prediction."""
        tails = [self.open(i)[(n - 1) // T * T :] for i, n in enumerate(self.lengths)]
        return [torch.from_numpy(tail.astype(np.int64)) for tail in tails if len(tail) > 1]

    def open(self, shard: int) -> np.memmap:
        """A shard's ids, mapped anew: what is read through a map counts as memory of the process until it is closed."""
        return np.memmap(self.folder / self.shards[shard]["file"], self.dtype, "r")


def characters(source: Path, field: str, separator: str | None, skip_bad: bool, **others: object) -> CharTokenizer:
    """The tokenizer of all characters in the documents."""
    found = {"\n"}
    for document in read(source_files(source), field, separator):
        try:
            for part in document.parts():
                found.update(part)
        except BadRecord:
            if not skip_bad:
                raise
    return CharTokenizer("".join(found))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m gptlib.shards", description="Encode texts into shards of token ids.")
    add = parser.add_argument
    add("source", help="a file or folder of .txt, .json, .jsonl, .csv, .parquet, also compressed (.gz, .bz2, .xz)")
    add("folder", help="where the shards go; after an interruption, the same command continues")
    add(
        "--tokenizer",
        required=True,
        help="char (the source's characters), gpt2, shakespeare-gpt2, or a folder with one",
    )
    add("--field", default="text", help="the field or column that holds the text (default: %(default)s)")
    add("--separator", help=r"what divides a .txt file into documents, such as \n\n (default: nothing)")
    add("--val-fraction", type=float, default=0.1, help="the share of the validation set (default: %(default)s)")
    add("--seed", type=int, default=0, help="another one makes another split (default: %(default)s)")
    add("--shard-tokens", type=int, default=2**22, help="tokens per shard (default: %(default)s)")
    add("--skip-bad", action="store_true", help="skip and count broken documents")
    options = vars(parser.parse_args(arguments))
    source, folder, name = (options.pop(key) for key in ("source", "folder", "tokenizer"))
    if options["separator"]:
        options["separator"] = options["separator"].replace(r"\n", "\n").replace(r"\r", "\r").replace(r"\t", "\t")
    try:
        tokenizer = characters(source, **options) if name == "char" else load_tokenizer(name)
        manifest = prepare(source, folder, tokenizer, **options)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{parser.prog}: interrupted; the same command continues")
    for name in SETS:
        print(name, *(f"{manifest[name][what]:,} {what}" for what in ("documents", "characters", "tokens")), sep="  ")
    skipped = manifest["skipped"]
    print(
        f"skipped  {skipped['empty']:,} empty documents  {skipped['broken']:,} broken ones",
        *skipped["first"],
        sep="\n  ",
    )


if __name__ == "__main__":
    main()
