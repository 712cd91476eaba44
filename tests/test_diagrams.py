"""The diagrams in images/: legible, self-contained, described in words, and in the colors of the plots.

A rule takes an SVG and returns its faults. Each rule is first seen to fail on a small picture broken for it. Texts are
measured in DejaVu, which is wider than the fonts that most readers have.
"""

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from gptlib import plot

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "images"
NAMES = sorted(path.stem for path in IMAGES.glob("*.svg") if path.stem != "colab")

PHONE, SMALLEST = 390, 9  # pixels: a phone's width, and the smallest letters on it
MARGIN = 8
SVG = "{http://www.w3.org/2000/svg}"


def stored(name):
    return (IMAGES / f"{name}.svg").read_text(encoding="utf-8")


def boxes(svg):
    """(text, left, top, right, bottom) of every text, in the units of the picture."""
    found = []
    for text in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        size, x, y = (float(text.get(key)) for key in ("font-size", "x", "y"))
        family = "DejaVu Sans Mono" if text.get("font-family") == "monospace" else "DejaVu Sans"
        font = FontProperties(family=family, weight=text.get("font-weight", "normal"), size=size)
        width = text_to_path.get_text_width_height_descent(text.text, font, ismath=False)[0]
        left = x - width * {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor")]
        found.append((text.text, left, y - 0.76 * size, left + width, y + 0.2 * size))
    return found


# ---------------------------------------------------------------- the rules


def rule_says_what_it_is(svg):
    root = ElementTree.fromstring(svg)
    faults = [] if root.get("role") == "img" else ["it has no role"]
    faults += [f"{part} is empty" for part in ("title", "desc") if not (root.findtext(SVG + part) or "").strip()]
    return faults + [f"{key} is not set" for key in ("width", "height", "viewBox") if not root.get(key)]


def rule_stands_alone(svg):
    """No script, no style sheet, nothing fetched, no font that a machine may lack."""
    root = ElementTree.fromstring(svg)
    tags = {element.tag.removeprefix(SVG) for element in root.iter()}
    faults = sorted(tags - {"svg", "title", "desc", "rect", "circle", "path", "polygon", "text"})
    for element in root.iter():
        faults += [f"{key}={value}" for key, value in element.items() if "href" in key or "url(" in value]
        if element.get("font-family", "sans-serif") not in ("sans-serif", "monospace"):
            faults.append(element.get("font-family"))
    return faults


def rule_is_a_white_card(svg):
    """An image knows nothing of the page's theme: it brings its own background."""
    root = ElementTree.fromstring(svg)
    width, height = (float(value) for value in root.get("viewBox").split()[2:])
    card = root.find(f"{SVG}rect")
    whole = card is not None and (float(card.get("width")), float(card.get("height"))) == (width - 2, height - 2)
    return [] if whole and card.get("fill") == "#fff" else ["there is no white card behind it"]


def rule_letters_are_large_enough_on_a_phone(svg):
    root = ElementTree.fromstring(svg)
    scale = PHONE / float(root.get("viewBox").split()[2])
    sizes = [(text.text, float(text.get("font-size")) * scale) for text in root.iter(f"{SVG}text")]
    return [f"{words}: {size:.1f} pixels" for words, size in sizes if size < SMALLEST]


def rule_texts_lie_inside(svg):
    width, height = (float(value) for value in ElementTree.fromstring(svg).get("viewBox").split()[2:])
    return [
        words
        for words, left, top, right, bottom in boxes(svg)
        if left < MARGIN or top < MARGIN or right > width - MARGIN or bottom > height - MARGIN
    ]


def rule_texts_do_not_overlap(svg):
    return [
        f"{a[0]} / {b[0]}"
        for a, b in combinations(boxes(svg), 2)
        if a[1] < b[3] and b[1] < a[3] and a[2] < b[4] and b[2] < a[4]
    ]


def rule_no_text_crosses_the_edge_of_a_box(svg):
    faults, texts = [], boxes(svg)
    for rect in ElementTree.fromstring(svg).iter(f"{SVG}rect"):
        x, y, w, h = (float(rect.get(key)) for key in ("x", "y", "width", "height"))
        for words, left, top, right, bottom in texts:
            apart = right < x or left > x + w or bottom < y or top > y + h
            inside = left >= x and right <= x + w and top >= y and bottom <= y + h
            if not (apart or inside):
                faults.append(f"{words}: a box at {x:g}, {y:g}")
    return faults


RULES = [rule for name, rule in list(globals().items()) if name.startswith("rule_")]

LETTERS = 'text-anchor="middle" font-family="sans-serif" font-size="16"'
SOUND = f"""<svg xmlns="http://www.w3.org/2000/svg" width="640" height="200" viewBox="0 0 640 200" role="img">
<title>A title</title><desc>What it shows</desc>
<rect x="1" y="1" width="638" height="198" fill="#fff"/>
<text x="320" y="100" {LETTERS}>middle</text>
<rect x="220" y="130" width="200" height="40" fill="none"/><text x="320" y="156" {LETTERS}>norm</text>
</svg>"""
BREAK = {  # what to replace in the sound picture, and by what
    "rule_says_what_it_is": ("What it shows", " "),
    "rule_stands_alone": ('font-family="sans-serif"', 'font-family="Comic Sans MS"'),
    "rule_is_a_white_card": ('fill="#fff"', 'fill="none"'),
    "rule_letters_are_large_enough_on_a_phone": ('font-size="16"', 'font-size="14"'),
    "rule_texts_lie_inside": ('x="320"', 'x="640"'),
    "rule_texts_do_not_overlap": (">middle<", ">A long line that stands in the middle<"),
    "rule_no_text_crosses_the_edge_of_a_box": (">norm<", ">a name that is wider than its box<"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_notices(rule):
    sound = SOUND
    assert rule(sound) == []
    before, after = BREAK[rule.__name__]
    broken = sound.replace(before, after)
    if rule is rule_texts_do_not_overlap:
        broken = sound.replace("</svg>", sound[sound.index("<text") : sound.index("</text>") + 7] + "</svg>")
    assert broken != sound and rule(broken), "the rule does not see the fault"


@pytest.mark.parametrize(
    "attack", ["<script>1</script>", '<image href="https://example.org/x.png"/>', "<style>x</style>"]
)
def test_rule_notices_what_is_fetched_or_run(attack):
    assert rule_stands_alone(SOUND.replace("</svg>", attack + "</svg>"))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_diagram(name, rule):
    assert rule(stored(name)) == []


# ---------------------------------------------------------------- shown with words


def pictures(markdown):
    """(alternative text, file) of every picture of images/ that a piece of markdown or HTML shows."""
    found = re.findall(r"!\[([^\]]*)\]\((?:\.\./)?images/([^)\s]+)", markdown)
    for tag in re.findall(r"<img\b[^>]*>", markdown):
        source, alt = (re.search(rf"\b{key}=\"([^\"]*)\"", tag) for key in ("src", "alt"))
        if source and "images/" in source[1]:
            found.append((alt[1] if alt else "", source[1].split("images/")[1]))
    return found


def faults_of_pictures(markdown):
    return [name for alt, name in pictures(markdown) if not alt.strip()]


@pytest.mark.parametrize(
    "markdown", ["![](images/head.svg)", "![ ](../images/head.svg)", '<img src="images/head.svg">']
)
def test_a_picture_without_its_text_is_noticed(markdown):
    assert faults_of_pictures(markdown) == ["head.svg"]


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.ipynb"))], ids=lambda p: p.name
)
def test_pictures_are_shown_with_their_text(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert faults_of_pictures(text) == [], "a picture needs alternative text: what it shows, in words"


@pytest.mark.parametrize("name", sorted({"head", "heads"} & set(NAMES)))
def test_query_key_and_value_have_the_colors_of_the_plots(name):
    assert all(color in stored(name) for color in (plot.QUERY, plot.KEY, plot.VALUE))
