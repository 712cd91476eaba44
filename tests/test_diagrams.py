"""The diagrams in images/: drawn by one command, legible, in the colours of the plots, and true to the code.

A rule takes an SVG and returns its faults. Each rule is first seen to fail on a small picture broken for it. Texts are
measured in DejaVu, which is wider than the fonts that most readers have.
"""

import importlib.util
import re
import sys
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

import gptlib
from gptlib import plot

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "images"
NAMES = ["transformer", "decoder", "block", "head", "heads", "residual", "triangle", "course"]

sys.path.insert(0, str(ROOT / ".ci"))  # where diagrams.py finds drawing.py
spec = importlib.util.spec_from_file_location("diagrams", ROOT / ".ci" / "diagrams.py")
diagrams = importlib.util.module_from_spec(spec)
spec.loader.exec_module(diagrams)
drawing = sys.modules["drawing"]

PHONE, SMALLEST = 390, 9  # pixels: a phone's width, and the smallest letters on it
MARGIN = 8
SVG = "{http://www.w3.org/2000/svg}"


def stored(name):
    return (IMAGES / f"{name}.svg").read_text(encoding="utf-8")


def description(svg):
    return ElementTree.fromstring(svg).findtext(f"{SVG}desc")


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

SOUND = drawing.Drawing("A title", "What it shows", 200)
SOUND.text(320, 100, "middle")
SOUND.box(320, 150, 200, 40, "norm", "norm")
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
    sound = SOUND.svg()
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
    assert rule_stands_alone(SOUND.svg().replace("</svg>", attack + "</svg>"))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_diagram(name, rule):
    assert rule(stored(name)) == []


# ---------------------------------------------------------------- drawn again, and listed


def test_all_diagrams_are_there():
    assert set(diagrams.DIAGRAMS) == set(NAMES)


@pytest.mark.parametrize("name", [*(f"{name}.svg" for name in NAMES), "README.md"])
def test_drawing_again_gives_the_stored_bytes(name):
    again = diagrams.files()[name]
    assert (IMAGES / name).read_bytes().replace(b"\r\n", b"\n") == again.encode(), "make pictures, or undo the edit"
    assert diagrams.files()[name] == again


def pictures(markdown):
    """(alternative text, file) of every picture of images/ that a piece of markdown or HTML shows."""
    found = re.findall(r"!\[([^\]]*)\]\((?:\.\./)?images/([^)\s]+)", markdown)
    for tag in re.findall(r"<img\b[^>]*>", markdown):
        source, alt = (re.search(rf"\b{key}=\"([^\"]*)\"", tag) for key in ("src", "alt"))
        if source and "images/" in source[1]:
            found.append((alt[1] if alt else "", source[1].split("images/")[1]))
    return found


def faults_of_pictures(markdown):
    texts = {f"{name}.svg": description(stored(name)) for name in NAMES} | {"attention.png": diagrams.PHOTO}
    return [name for alt, name in pictures(markdown) if not alt.strip() or alt != texts.get(name, alt)]


def test_the_page_lists_every_picture_with_its_text():
    page = (IMAGES / "README.md").read_text(encoding="utf-8")
    listed = {name: alt for alt, name in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page)}
    assert listed == {f"{name}.svg": description(stored(name)) for name in NAMES} | {"attention.png": diagrams.PHOTO}
    assert len(set(listed.values())) == len(listed)


@pytest.mark.parametrize(
    "markdown", ["![](images/head.svg)", "![a head](../images/head.svg)", '<img src="images/head.svg">']
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
    assert faults_of_pictures(text) == [], "take the text from images/README.md"


# ---------------------------------------------------------------- true to the plots and to the code


def test_colours_are_those_of_the_plots():
    assert (drawing.QUERY, drawing.KEY, drawing.VALUE) == (plot.QUERY, plot.KEY, plot.VALUE)
    for stops, scale in ((drawing.ATTENTION, plot.ATTENTION), (drawing.SIGNED, plot.SIGNED)):
        for value in (0.0, 0.2, 0.5, 0.8, 1.0):
            assert to_rgb(drawing.shade(stops, value)) == pytest.approx(scale(value)[:3], abs=0.02)
    for name in ("head", "heads"):
        assert all(colour in stored(name) for colour in (plot.QUERY, plot.KEY, plot.VALUE))


def test_the_head_is_computed_as_the_code_does():
    q, k, v = (torch.tensor(part, dtype=torch.float) for part in (diagrams.Q, diagrams.K, diagrams.V))
    scores, weights, out = (torch.tensor(part) for part in diagrams.cats())
    assert torch.allclose(scores, q @ k.mT / q.shape[-1] ** 0.5)
    assert torch.allclose(weights, gptlib.attention_weights(q, k))
    assert torch.allclose(out, gptlib.attention.Attend()(q, k, v), atol=1e-6)


def words(name):
    return [text.text for text in ElementTree.fromstring(stored(name)).iter(f"{SVG}text")]


def seen(module, *inputs):
    """{name of a part: shape of its output} for one forward pass."""
    shapes = {}
    hooks = [
        part.register_forward_hook(lambda _, __, output, name=name: shapes.update({name: tuple(output.shape)}))
        for name, part in module.named_modules()
    ]
    with torch.no_grad():
        module(*inputs)
    for hook in hooks:
        hook.remove()
    return shapes


B, T, C, H, D, V = 2, 5, 12, 3, 4, 7
SIZES = {"B": B, "T": T, "C": C, "3C": 3 * C, "4C": 4 * C, "H": H, "D": D, "V": V}


def drawn(label):
    """The label of a shape, with the sizes above: '(B, T, C)' -> (2, 5, 12)."""
    return tuple(SIZES[size] for size in re.findall(r"\w+", label))


def test_heads_have_the_steps_and_shapes_of_the_code():
    said = words("heads")
    steps = ("x", "qkv", "split_heads", "attend", "merge_heads", "project")  # each label stands above its shape
    shape_of = {name: drawn(said[said.index(name) + 1]) for name in steps}
    x = torch.randn(B, T, C)
    shapes = seen(gptlib.MultiHeadAttention(C, H), x)
    shapes["x"] = tuple(x.shape)
    shapes["split_heads"] = tuple(gptlib.attention.split_heads(x, H).shape)
    shapes["merge_heads"] = tuple(gptlib.attention.merge_heads(torch.randn(B, H, T, D)).shape)
    assert shape_of == {name: shapes[name] for name in steps}


def test_block_and_decoder_have_the_shapes_of_the_code():
    shapes = seen(gptlib.Block(C, H), torch.randn(B, T, C))
    assert {shapes[part] for part in ("norm1", "attention", "norm2", "feed_forward")} == {drawn("(B, T, C)")}
    assert shapes["feed_forward.widen"] == drawn("(B, T, 4C)") and "(B, T, 4C)" in words("block")
    assert {"norm1", "norm2", "x = x + attention(norm1(x))", "x = x + feed_forward(norm2(x))"} <= set(words("block"))
    config = gptlib.GPTConfig(vocab_size=V, context_length=8, n_layer=2, n_head=H, n_embd=C)
    model, said = gptlib.GPT(config), words("decoder")
    shapes = seen(model, torch.zeros(B, T, dtype=torch.long))
    assert shapes["token_embedding"] == drawn("(B, T, C)") and shapes["position_embedding"] == drawn("(T, C)")
    assert shapes["head"] == drawn(said[said.index("logits") + 1])
    assert model.head.weight is model.token_embedding.weight
    assert tuple(model.head.weight.shape) == drawn(said[said.index("used twice") + 1])


def test_the_map_is_the_course():
    names = dict(path.stem.split("_", 1) for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert {int(number) for number in names} == diagrams.READY, "the map says that other notebooks are ready"
    assert len(diagrams.STATIONS) == 17
    for number, name in names.items():
        station = " ".join(diagrams.STATIONS[int(number)]).lower().replace("-", "")
        assert name.replace("_", " ") in station or name.replace("_", "") in station.replace(" ", "")
