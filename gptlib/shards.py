"""Shards: the token ids of texts larger than memory, encoded once, in files that training reads in windows.

`prepare` encodes `documents` and `Shards` reads the result. The rules:

- Each document is followed by the token <|endoftext|>, or by a blank line where the tokenizer has no such token.
- The SHA-256 hash of the seed and of a document's first 262,144 characters decides whether it is in the validation set,
  with the probability `val_fraction`. So no document is in both sets, however often it occurs.
- A document without any character but spaces is skipped and counted. One that is broken (a line that is no JSON, a
  missing field, bytes that are not UTF-8, a character that the tokenizer lacks, a file of another kind) is refused with
  its file and line, or with `skip_bad` skipped and counted. Damage that hides the rest of a file is always refused.
- A shard holds ids as little-endian uint16, uint32 above 65,536 tokens. `manifest.json` is written last.
"""

import argparse
import hashlib
import json
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
from gptlib.documents import PART, BadRecord, Document, documents, kind, read, source_files
from gptlib.files import atomic_write
from gptlib.pretrained import Tokenizer, load_tokenizer, to_json, tokenizer_files
from gptlib.tokenizers import CharTokenizer

SETS = ("train", "val")
SHARD_TOKENS = 2**22


def prepare(
    source: str | Path, folder: str | Path, tokenizer: Tokenizer, *, field: str = "text", separator: str | None = None,
    val_fraction: float = 0.1, seed: int = 0, shard_tokens: int = SHARD_TOKENS, skip_bad: bool = False,
    progress: bool = True,
) -> dict:  # fmt: skip
    """Encode the documents of `source` into shards of `shard_tokens` in `folder`, and return the manifest.

    After an interruption, the same call continues at the last full shard, and the files become what they would have
    been. Raises BadRecord for a broken document, ValueError for a damaged file or for other settings than those of the
    shards that `folder` has, and OSError when it cannot be written.
    """
    source, folder, files = Path(source), Path(folder), source_files(source)
    if not 0 <= val_fraction < 1 or shard_tokens < 2:
        raise ValueError(f"val_fraction={val_fraction} must be from 0 to below 1, shard_tokens={shard_tokens} above 1")
    if source.resolve() in [folder.resolve(), *folder.resolve().parents]:
        raise ValueError(f"{folder} is inside the source {source}: name a folder outside of it")
    if val_fraction and separator is None and [kind(path) for path in files] == [".txt"]:
        raise ValueError(f"{source} is one document, which is in one set: give its separator, or val_fraction=0")
    root, contents = source if source.is_dir() else source.parent, tokenizer_files(tokenizer)
    settings = {
        "sources": [
            {"file": path.relative_to(root).as_posix(), "bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in files
        ],
        "tokenizer": hashlib.sha256(b"".join(contents.values())).hexdigest(),
        "vocab_size": tokenizer.vocab_size, "field": field, "separator": separator, "val_fraction": val_fraction,
        "seed": seed, "shard_tokens": shard_tokens, "skip_bad": skip_bad,
    }  # fmt: skip
    if (folder / "manifest.json").is_file():
        return same(read_manifest(folder), settings, folder)
    folder.mkdir(parents=True, exist_ok=True)
    run = Preparation(folder, tokenizer, settings)
    for name, content in contents.items():
        atomic_write(folder / name, partial(Path.write_bytes, data=content))
    total = sum(path.stat().st_size for path in files)
    with tqdm(total=total, unit="B", unit_scale=True, disable=not progress) as bar:
        for document in islice(read(files, field, separator, bar.update), run.state["done"], None):
            run.add(document)
    return run.finish()


def same(stored: dict, settings: dict, folder: Path) -> dict:
    """What is `stored`; raises ValueError when it was made with other `settings`."""
    if other := [name for name, value in settings.items() if stored.get(name) != value]:
        raise ValueError(f"{folder} holds shards with another {', '.join(other)}: name another folder, or delete it")
    return stored


class Preparation:
    """Documents on their way into shards: a full shard is written, and what comes after it waits in memory."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, settings: dict):
        self.folder, self.tokenizer, self.settings = folder, tokenizer, settings
        self.size, self.end, dtype = settings["shard_tokens"], end_ids(tokenizer), dtype_for(tokenizer.vocab_size)
        self.waiting = {name: np.empty(self.size, dtype) for name in SETS}
        sets: dict = {name: {"documents": 0, "characters": 0, "tokens": 0, "shards": []} for name in SETS}
        # Documents that are done, pieces of the next one that are, and its set with what that held before it.
        self.state = {"done": 0, "pieces": 0, "before": None, "skipped": {"empty": 0, "bad": 0, "first": []}, **sets}
        if (folder / "progress.npz").is_file():
            with np.load(folder / "progress.npz") as saved:
                self.state = same(json.loads(str(saved["state"])), settings, folder)
                for name in SETS:
                    self.waiting[name][: len(saved[name])] = saved[name]
                    check_shards(folder, self.state[name]["shards"], dtype)

    def add(self, document: Document) -> None:
        """Encode a document, or skip it."""
        state, newlines, changed = self.state, 0, False
        try:
            parts = document.parts()
            first = next(parts, "")
            if not first.strip() and len(first) < PART:
                self.skip("empty", str(document.bad("an empty document")))
            else:
                share = int.from_bytes(hashlib.sha256(f"{self.settings['seed']} {first}".encode()).digest()[:8], "big")
                name = "val" if share < self.settings["val_fraction"] * 2**64 else "train"
                state["before"] = state["before"] or [name, state[name]["tokens"], state[name]["characters"]]
                for number, piece in enumerate(pieces(chain([first], parts)), start=1):
                    if number > state["pieces"]:  # the others were encoded before an interruption
                        state["pieces"] = number
                        state[name]["characters"] += len(piece)
                        if self.extend(name, self.encode(document, piece, newlines)):
                            self.save()
                    newlines += piece.count("\n")
                changed = self.extend(name, self.end)
                state[name]["documents"] += 1
        except BadRecord as error:
            if not self.settings["skip_bad"]:
                raise
            changed = self.take_back()
            self.skip("bad", str(error))
        state.update(done=state["done"] + 1, pieces=0, before=None)
        if changed:
            self.save()

    def encode(self, document: Document, piece: str, newlines: int) -> np.ndarray:
        """The ids of a piece that begins after so many newlines; raises BadRecord for what the tokenizer lacks."""
        try:
            return np.array(self.tokenizer.encode(piece), self.waiting["train"].dtype)
        except ValueError:
            for line in piece.split("\n"):
                try:
                    self.tokenizer.encode(line)
                except ValueError as error:
                    raise document.bad(error, newlines) from None
                newlines += 1
            raise document.bad("the tokenizer lacks the newline") from None

    def extend(self, name: str, ids: np.ndarray) -> bool:
        """Whether the set had a shard to write, after these ids were added."""
        chosen, before = self.state[name], len(self.state[name]["shards"])
        while len(ids):
            start = chosen["tokens"] % self.size
            now, ids = ids[: self.size - start], ids[self.size - start :]
            self.waiting[name][start : start + len(now)] = now
            chosen["tokens"] += len(now)
            if start + len(now) == self.size:
                self.write(name, self.size)
        return len(chosen["shards"]) > before

    def write(self, name: str, n: int) -> None:
        ids, shards = self.waiting[name][:n], self.state[name]["shards"]
        file = f"{name}-{len(shards):05}.bin"
        atomic_write(self.folder / file, ids.tofile)
        shards.append({"file": file, "tokens": n, "sha256": hashlib.sha256(ids.data).hexdigest()})

    def save(self) -> None:
        """Write what is needed to continue from here."""
        waiting = {name: ids[: self.state[name]["tokens"] % self.size] for name, ids in self.waiting.items()}
        state = json.dumps({**self.settings, **self.state})
        atomic_write(self.folder / "progress.npz", lambda new: np.savez(new, state=state, **waiting))  # type: ignore[arg-type]

    def take_back(self) -> bool:
        """Forget what a bad document has added; returns whether shards were among it."""
        if self.state["before"] is None:
            return False
        name, tokens, characters = self.state["before"]
        kept, shards = tokens // self.size, self.state[name]["shards"]
        if shards[kept:]:
            n = tokens % self.size
            self.waiting[name][:n] = np.fromfile(self.folder / shards[kept]["file"], self.waiting[name].dtype, n)
        self.state[name].update(tokens=tokens, characters=characters, shards=shards[:kept])
        return len(shards) > kept

    def skip(self, why: str, message: str) -> None:
        self.state["skipped"][why] += 1
        if len(self.state["skipped"]["first"]) < 100:
            self.state["skipped"]["first"].append(message)

    def finish(self) -> dict:
        """Write the last shards and the manifest."""
        for name in SETS if self.settings["val_fraction"] else SETS[:1]:
            if not self.state[name]["documents"]:
                raise ValueError(
                    f"no document is in the {name} set: use more documents, or another seed or val_fraction"
                )
        for name in SETS:
            if rest := self.state[name]["tokens"] % self.size:
                self.write(name, rest)
        for name in "done", "pieces", "before":
            del self.state[name]
        manifest = {**self.settings, "dtype": self.waiting["train"].dtype.name, **self.state}
        written = {shard["file"] for name in SETS for shard in manifest[name]["shards"]}
        for path in self.folder.glob("*-*.bin"):
            if path.name not in written:  # of a long document that was bad at its end
                path.unlink()
        atomic_write(self.folder / "manifest.json", lambda new: new.write_bytes(to_json(manifest)))
        (self.folder / "progress.npz").unlink(missing_ok=True)
        return manifest


def end_ids(tokenizer: Tokenizer) -> np.ndarray:
    """The ids between documents."""
    if isinstance(tokenizer, BPETokenizer) and END_OF_TEXT in tokenizer.special_tokens:
        return np.array(tokenizer.encode(END_OF_TEXT, allowed_special=[END_OF_TEXT]))
    if "\n" not in tokenizer.decode(range(tokenizer.vocab_size)):
        raise ValueError("the tokenizer has neither an end token nor the newline to put between documents")
    return np.array(tokenizer.encode("\n\n"))


def dtype_for(vocab_size: int) -> np.dtype:
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def read_manifest(folder: Path) -> dict:
    path = folder / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: prepare shards there first, to the end")
    return json.loads(path.read_text(encoding="utf-8"))


def check_shards(folder: Path, shards: list[dict], dtype: np.dtype, hashes: bool = True) -> None:
    """Raises ValueError, or FileNotFoundError, for the first shard that is not as it was written."""
    for shard in shards:
        path, size = folder / shard["file"], shard["tokens"] * dtype.itemsize
        if path.stat().st_size != size or hashes and sha256(path) != shard["sha256"]:
            raise ValueError(f"{path} is cut or altered: delete {folder} and prepare it again")


class Shards:
    """The training or validation set ("train" or "val") in a folder that `prepare` wrote, in windows of T tokens.

    Window i holds T inputs and, one token on, T targets; consecutive ones share a token, and none crosses a shard.
    Raises ValueError when a shard is cut or altered; `verify=False` compares its size alone.
    """

    def __init__(self, folder: str | Path, split: str = "train", verify: bool = True):
        self.folder, manifest = Path(folder), read_manifest(Path(folder))
        if split not in SETS:
            raise ValueError(f"split is {split!r}: use 'train' or 'val'")
        self.vocab_size, self.n_tokens = manifest["vocab_size"], manifest[split]["tokens"]
        self.shards, self.dtype = manifest[split]["shards"], dtype_for(self.vocab_size)
        check_shards(self.folder, self.shards, self.dtype, verify)
        self.lengths = np.array([shard["tokens"] for shard in self.shards], np.int64)

    def n_windows(self, T: int) -> int:
        return int(((self.lengths - 1) // T).sum())

    def batch(self, indices: Sequence[int], T: int) -> tuple[Tensor, Tensor]:
        """Windows `indices` (B,): inputs x (B, T) and targets y (B, T), int64."""
        numbers, ends = np.asarray(indices), ((self.lengths - 1) // T).cumsum()
        if not (0 <= numbers).all() or not (numbers < self.n_windows(T)).all():
            raise IndexError(f"windows of {T} have the numbers 0 to {self.n_windows(T) - 1}, got {numbers.tolist()}")
        rows, of = np.empty((len(numbers), T + 1), np.int64), ends.searchsorted(numbers, side="right")
        for shard in np.unique(of):
            ids = self.open(shard)
            for row in np.flatnonzero(of == shard):
                start = (numbers[row] - (ends[shard] - (self.lengths[shard] - 1) // T)) * T
                rows[row] = ids[start : start + T + 1]
        batch = torch.from_numpy(rows)
        return batch[:, :-1], batch[:, 1:]

    def tails(self, T: int) -> list[Tensor]:
        """What is left at the end of each shard after the last window, from its last target on: (n,), 2 <= n <= T."""
        starts = (self.lengths - 1) // T * T
        tails = [self.open(i)[start:].astype(np.int64) for i, start in enumerate(starts)]
        return [torch.from_numpy(tail) for tail in tails if len(tail) > 1]

    def open(self, shard: int) -> np.memmap:
        """A shard's ids, mapped anew: through a map that stays open, all that was read would count as memory in use."""
        return np.memmap(self.folder / self.shards[shard]["file"], self.dtype, "r")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m gptlib.shards",
        description="Encode texts into shards of token ids that training reads.",
        epilog="After an interruption, the same command continues.",
    )
    add = parser.add_argument
    add("source", help="a file or folder of .txt, .json, .jsonl, .csv or .parquet, also as .gz, .bz2 or .xz")
    add("folder", help="where the shards, manifest.json and the tokenizer go")
    add("--tokenizer", required=True, help="char (the characters of the source), gpt2, shakespeare-gpt2, or a folder")
    add("--field", default="text", help="the field or column that holds the text (text)")
    add("--separator", help=r"what stands between the documents of a .txt file, such as \n\n (none: one per file)")
    add("--val-fraction", type=float, default=0.1, help="the share of documents that are for validation (0.1)")
    add("--seed", type=int, default=0, help="chooses which ones (0)")
    add("--shard-tokens", type=int, default=SHARD_TOKENS, help=f"tokens in each shard ({SHARD_TOKENS:,})")
    add("--skip-bad", action="store_true", help="skip and count broken documents instead of refusing them")
    given = parser.parse_args(arguments)
    separator = given.separator and given.separator.replace("\\n", "\n").replace("\\t", "\t")
    try:
        if given.tokenizer == "char":
            texts = documents(given.source, given.field, separator)
            tokenizer: Tokenizer = CharTokenizer("".join(set("\n").union(*map(set, texts))))
        else:
            tokenizer = load_tokenizer(given.tokenizer)
        manifest = prepare(
            given.source, given.folder, tokenizer, field=given.field, separator=separator, skip_bad=given.skip_bad,
            val_fraction=given.val_fraction, seed=given.seed, shard_tokens=given.shard_tokens,
        )  # fmt: skip
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{parser.prog}: interrupted; the same command continues at the last full shard")
    for name in SETS:
        found = manifest[name]
        print(
            f"{name}: {found['documents']:,} documents, {found['characters']:,} characters, {found['tokens']:,} tokens"
        )
    skipped = manifest["skipped"]
    print(
        f"skipped: {skipped['empty']:,} empty documents, {skipped['bad']:,} broken ones", *skipped["first"], sep="\n  "
    )


if __name__ == "__main__":
    main()
