"""Documents: texts from files of several kinds, one after another, with at most one record in memory at a time.

A .txt file is one document, or several with a `separator` between them; .json (a list), .jsonl, .csv and .parquet hold
one in a named field of each record. All may be compressed (.gz, .bz2, .xz), and a folder is read in order of names.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from tqdm.utils import CallbackIOWrapper

PART = 2**18  # the characters of a text that are read at a time
OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
ENDINGS = (".txt", ".json", ".jsonl", ".csv", ".parquet")


class BadRecord(ValueError):
    """A document that cannot be used; the message names its file and line."""


@dataclass
class Document:
    """A text, its file, and the line where it begins (in a .parquet file, the row)."""

    path: Path
    line: int
    record: Any  # the text, its parts, a dictionary with the text in `field`, or the error that hides it
    field: str

    def bad(self, why: object, newlines: int = 0) -> BadRecord:
        """The error for a place after so many newlines of the text."""
        line = self.line + newlines * (kind(self.path) == ".txt")
        return BadRecord(f"{self.path}, {'row' if kind(self.path) == '.parquet' else 'line'} {line}: {why}")

    def parts(self) -> Iterator[str]:
        """The text in parts of at most PART characters; raises BadRecord when there is none, or it is not UTF-8."""
        text, newlines = self.record, 0
        if isinstance(text, dict):
            names = ", ".join(map(str, text))
            text = text.get(self.field, LookupError(f"there is no field {self.field!r}, only {names}"))
        if not isinstance(text, (str, Iterator)):
            raise self.bad(text if isinstance(text, Exception) else f"{text!r:.50} is not a text")
        chunks = (text[at : at + PART] for at in range(0, len(text), PART)) if isinstance(text, str) else text
        for part in readable(self.path, chunks):
            try:
                part.encode("utf-8")
            except UnicodeEncodeError as error:
                newlines += part.count("\n", 0, error.start)
                raise self.bad("this is not UTF-8: save the file as UTF-8", newlines) from None
            newlines += part.count("\n")
            yield part


def documents(source: str | Path, field: str = "text", separator: str | None = None) -> Iterator[str]:
    """The text of each document in a file or folder; raises BadRecord, or ValueError when a file is damaged."""
    for document in read(source_files(source), field, separator):
        yield "".join(document.parts())


def source_files(source: str | Path) -> list[Path]:
    """The file, or those of a folder and its subfolders in order of their names, without hidden ones."""
    source = Path(source)
    found = [source] if source.is_file() else [*walk(source)] if source.is_dir() else []
    found = [path for path in found if not any(part[0] == "." for part in path.relative_to(source).parts)]
    if not found:
        raise FileNotFoundError(f"there is no file in {source}: name a file or a folder with {', '.join(ENDINGS)}")
    return sorted(found, key=lambda path: (kind(path) in ENDINGS, path.as_posix()))  # another kind is refused at once


def walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, also where links lead; raises OSError when one of its folders cannot be read."""

    def refuse(error: OSError) -> None:
        raise error

    for here, _, names in os.walk(folder, onerror=refuse, followlinks=True):
        yield from (Path(here, name) for name in names)


def kind(path: Path) -> str:
    """The ending of the name without that of a compression, in small letters: texts/a.CSV.gz -> .csv."""
    return (path.with_suffix("") if path.suffix.lower() in OPENERS else path).suffix.lower()


def read(
    files: list[Path], field: str, separator: str | None = None, report: Callable[[int], object] = lambda n: None
) -> Iterator[Document]:
    """The documents of these files, good or bad; `report` is called with each number of bytes that are read."""
    for path in files:
        with path.open("rb", buffering=0) as raw:
            binary = CallbackIOWrapper(report, raw)
            opener = OPENERS.get(path.suffix.lower())
            binary = opener(binary) if opener else binary
            found: Iterable[tuple[int, Any]]
            if kind(path) == ".parquet":
                found = parquet_rows(binary, field)
            elif kind(path) not in ENDINGS:
                found = [(1, ValueError(f"the file's name ends in none of {', '.join(ENDINGS)}"))]
            else:  # bytes that are not UTF-8 become halves of characters, which `Document.parts` finds
                file = io.TextIOWrapper(binary, "utf-8-sig", errors="surrogateescape", newline="")
                found = texts(file, separator) if kind(path) == ".txt" else READERS[kind(path)](file)
            for line, record in readable(path, found):
                yield Document(path, line, record, field)


def readable(path: Path, found: Iterable) -> Iterator:
    """What is `found` in the file; raises ValueError when it is damaged, so that its rest cannot be read."""
    try:
        yield from found
    except (EOFError, OSError, ValueError, csv.Error, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path} cannot be read to its end: {error}") from error


def texts(file: TextIO, separator: str | None) -> Iterator[tuple[int, Any]]:
    """The whole text as its parts, or each text between separators."""
    chunks = iter(lambda: file.read(PART), "")
    if separator is None:
        yield 1, chunks
        return
    rest, line = "", 1
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(separator)
        for text in whole:
            yield line, text
            line += (text + separator).count("\n")
    if rest:
        yield line, rest


def json_lines(file: TextIO) -> Iterator[tuple[int, Any]]:
    for line, text in enumerate(file, start=1):
        if text.strip():
            try:
                yield line, json.loads(text)
            except json.JSONDecodeError as error:
                yield line, ValueError(f"this is not JSON (column {error.colno}: {error.msg})")


def json_items(file: TextIO) -> Iterator[tuple[int, Any]]:
    """The items of a list, decoded while it is read."""
    decode, text, start, line, before = json.JSONDecoder().raw_decode, "", 0, 1, r"\s*\[\s*"
    while True:
        begin = re.compile(before).match(text, start)
        try:
            if begin is None:
                raise ValueError
            item, end = decode(text, begin.end())
        except ValueError:
            if more := file.read(max(PART, len(text) - start)):
                text, start = text[start:] + more, 0
                continue
            if re.fullmatch(r"(\s*\[)?\s*\]\s*", text[start:]):
                return
            raise ValueError(f"from line {line} on it is not a list in JSON") from None
        line += text.count("\n", start, begin.end())
        yield line, item
        line += text.count("\n", begin.end(), end)
        start, before = end, r"\s*,\s*"


def csv_rows(file: TextIO) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(2**31 - 1)
    rows = csv.reader(file, strict=True)
    names: list[str] = next(rows, [])
    row: list[str] | None = names
    while row is not None:
        line = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield line, error
        else:  # without the quotes around a text, its commas would end it
            if row:
                wrong = ValueError(f"{len(row)} values for {len(names)} columns")
                yield line, wrong if len(row) != len(names) else dict(zip(names, row))


def parquet_rows(file: BinaryIO, field: str) -> Iterator[tuple[int, Any]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ImportError("reading .parquet files needs pyarrow: python -m pip install pyarrow") from None
    # Unbuffered, or with threads, a column of many thousand rows would be read at once.
    table = parquet.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
    if field not in (names := table.schema_arrow.names):
        raise ValueError(f"there is no column {field!r}, only {', '.join(names)}")
    batches = table.iter_batches(batch_size=64, columns=[field], use_threads=False)
    yield from enumerate((text for batch in batches for text in batch.column(0).to_pylist()), start=1)


READERS = {".json": json_items, ".jsonl": json_lines, ".csv": csv_rows}
