"""Make pairs.json: `python data/en_fr/make.py FOLDER`, where FOLDER holds the five files that the card names.

Both sides are lowercase, on one line, with plain quotes and spaces. Left out are long texts, those with
placeholders or markup, those that are the same in both languages, and names with a skin tone, which repeat a name.
"""

import json
import random
import re
import sys
import unicodedata
from pathlib import Path

from gptlib.files import atomic_write

FOLDER = Path(__file__).parent
LONGEST = (60, 90)  # characters, English and French
LONGEST_HELD_OUT = (40, 60)
HELD_OUT = {"validation": 500, "test": 1000}
PLACEHOLDER = re.compile(r"[%{}<>\\$|_~^=@#\n\t]|&\w+;|://|\[\w*\]|(skin tone|hair)$")
PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "…": "...", "–": "-", "—": "-"})
PEOPLE = re.compile(r"\b(man|woman|men|women|person|people|boy|girl|mrs|mr)\b")


def clean(text: str) -> str:
    """Lowercase text with plain quotes and single spaces: "L’image  vide" -> "l'image vide"."""
    return " ".join(unicodedata.normalize("NFKC", text.translate(PLAIN)).lower().split())


def key(english: str) -> str:
    """What is equal for texts that give each other away: the letters, with one sign for all words for people."""
    text = PEOPLE.sub("x", english.split(": facing")[0].casefold()).replace("ies", "y")
    return re.sub(r"[^a-z]", "", text).rstrip("s")


def within(pair: tuple, longest: tuple[int, int]) -> bool:
    """Whether neither side of the pair has more characters than these."""
    return len(pair[0]) <= longest[0] and len(pair[1]) <= longest[1]


def names(source: Path, kind: str) -> list[tuple[str, str, str]]:
    """Names of characters in both languages, from one of CLDR's packages of annotations."""
    english, french = (
        json.loads((source / f"{kind}.{language}.json").read_text(encoding="utf-8"))[kind]["annotations"]
        for language in ("en", "fr")
    )
    return [(english[c]["tts"][0], french[c]["tts"][0], "cldr") for c in english if c in french]


def pairs(source: Path) -> list[tuple[str, str, str]]:
    """All pairs that are kept, the first translation of each English text."""
    rows = names(source, "annotations") + names(source, "annotationsDerived")
    rows += json.loads((source / "ui_en_fr.json").read_text(encoding="utf-8"))
    kept = {}
    for english, french, origin in rows:
        if PLACEHOLDER.search(english) or PLACEHOLDER.search(french) or "skin tone" in english:
            continue
        english, french = clean(english), clean(french)
        if within((english, french), LONGEST) and re.search("[a-z]{2}", english) and english != french:
            kept.setdefault(english.casefold(), (english, french, origin))
    return list(kept.values())


def split(rows: list[tuple[str, str, str]], seed: int = 0) -> dict[str, list[tuple[str, str, str]]]:
    """The rows in three sets, none of which shares a key with another; the short ones are held out."""
    groups: dict[str, list] = {}
    for row in rows:
        groups.setdefault(key(row[0]), []).append(row)
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    sets: dict[str, list] = {"train": [], "validation": [], "test": []}
    for group in order:
        short = all(within(row, LONGEST_HELD_OUT) for row in groups[group])
        open_sets = [name for name, size in HELD_OUT.items() if short and len(sets[name]) < size]
        sets[(open_sets or ["train"])[0]] += groups[group]
    return sets


if __name__ == "__main__":
    sets = split(pairs(Path(sys.argv[1])))
    blocks = []
    for name, rows in sets.items():
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        blocks.append(f'"{name}": [\n{lines}\n]')
    content = ("{" + ",\n".join(blocks) + "}\n").encode("utf-8")
    atomic_write(FOLDER / "pairs.json", lambda new: new.write_bytes(content))
    print({name: len(rows) for name, rows in sets.items()})
