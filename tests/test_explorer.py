"""The attention explorer: what it stores is what was given, and in a real browser it shows just that."""

import base64
import hashlib
import html
import io
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from browser import chromium

from gptlib import plot, probe
from gptlib.explorer import DARK, STYLE, png, shade, whole_percents
from gptlib.model import GPT, GPTConfig

TOKENS = ["T", "o", " ", "\n", "b", "e"]
SHOWN = ["T", "o", "␣", "⏎", "b", "e"]
HOSTILE = [
    "</script><script>hurt()</script>",
    "<img src=x onerror=hurt()>",
    '"',
    "'",
    "&amp;",
    "<!--",
    "",
    "🙂",
    "שלום",
    r"$\hurt$",
    "\\u003c",
    "\n",
    "\u2028",
]


def random_maps(L=3, H=2, T=6, causal=True, seed=0):
    """Weights (L, H, T, T), each row with a clear favourite."""
    scores = 2 * torch.randn(L, H, T, T, generator=torch.Generator().manual_seed(seed))
    if causal:
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf)
    return scores.softmax(dim=-1)


MAPS = random_maps()


def page(explorer):
    return explorer.html()


def script_data(text):
    """The data in the script, read the way the browser reads it."""
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    return json.loads(script[script.rindex("})({") + 3 : script.rindex(")")])


def decoded(data):
    """The weights (L, H, T, T) in percent that the script holds."""
    L, H, T = data["layers"], data["heads"], len(data["tokens"])
    found = np.frombuffer(base64.b64decode(data["weights"]), dtype=np.uint8).reshape(L, H, -1)
    weights = np.zeros((L, H, T, T), dtype=int)
    rows, columns = np.tril_indices(T) if data["causal"] else np.indices((T, T)).reshape(2, -1)
    weights[:, :, rows, columns] = found
    return weights


def table(text):
    """The cells of the table that stands on the page without scripts."""
    rows = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)]
    return [[html.unescape(re.sub(r"</?b>", "", cell)) for cell in row] for row in rows]


def picture(text):
    (source,) = re.findall(r'<img [^>]*src="data:image/png;base64,([^"]+)"', text)
    return plt.imread(io.BytesIO(base64.b64decode(source)), format="png")


# --- what is stored -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("T", [1, 2, 7, 100])
def test_the_script_holds_the_maps(T, causal):
    maps = random_maps(T=T, causal=causal)
    data = script_data(page(plot.explore(maps, "x" * T)))
    assert data["causal"] == (causal or T == 1)
    assert np.abs(decoded(data) - 100 * maps.numpy()).max() <= 0.5021
    assert len(base64.b64decode(data["weights"])) == 6 * (T * (T + 1) // 2 if causal else T * T)


def test_a_map_that_looks_ahead_a_little_is_not_taken_for_causal():
    maps = torch.tensor([[0.999, 0.001], [0.5, 0.5]])
    assert not script_data(page(plot.explore(maps, "ab")))["causal"]


def test_no_average_sits_between_two_percents():
    for n in range(1, 129):
        fractions = torch.arange(n + 1, dtype=torch.float64) / n
        for nudge in (-1e-7, 1e-7):
            assert (whole_percents(fractions + nudge) == whole_percents(fractions)).all(), n
    weights = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    assert (whole_percents(weights).double() - 100 * weights).abs().max() <= 0.5021
    assert whole_percents(torch.tensor([0.0, 1.0])).tolist() == [0, 100]


def test_every_shape_of_the_same_maps_is_the_same_explorer():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=6, context_length=6, n_layer=3, n_head=2, n_embd=8)).eval()
    with probe.attention(model) as maps:
        model(torch.arange(6)[None])
    recorded = page(plot.explore(maps, TOKENS))
    np.testing.assert_allclose(decoded(script_data(recorded)), 100 * torch.cat(maps).detach().numpy(), atol=0.5021)
    assert recorded == page(plot.explore([m[0] for m in maps], TOKENS)) == page(plot.explore(torch.cat(maps), TOKENS))
    one = page(plot.explore(MAPS[:1, :1], TOKENS))
    assert one == page(plot.explore(MAPS[0, :1], TOKENS)) == page(plot.explore(MAPS[0, 0], TOKENS))
    assert page(plot.explore(MAPS.bfloat16(), TOKENS)), "low precision sums to 1 only roughly"


def test_the_same_maps_are_the_same_characters():
    plt.close("all")
    one, other = (plot.explore(MAPS, TOKENS)._repr_mimebundle_() for _ in range(2))
    assert one == other and one[0]["text/html"] == page(plot.explore(MAPS, TOKENS))
    nudged = MAPS * (1 + 1e-7 * torch.randn(MAPS.shape, generator=torch.Generator().manual_seed(1)))
    assert page(plot.explore(nudged, TOKENS)) == one[0]["text/html"], "the last digits of another machine"
    assert plt.get_fignums() == [], "no figure is left open"


def test_other_content_has_another_name():
    pages = [
        page(plot.explore(MAPS, TOKENS)),
        page(plot.explore(MAPS, TOKENS, head=1)),
        page(plot.explore(MAPS, TOKENS[::-1])),
        page(plot.explore(MAPS.flip(0), TOKENS)),
    ]
    names = [script_data(text)["name"] for text in pages]
    data = script_data(pages[0])
    assert data.pop("name") == hashlib.sha256(json.dumps(data).encode()).hexdigest()[:12], "nothing drawn by chance"
    assert len(set(names)) == 4
    assert all(f'data-explorer="{name}"' in text for name, text in zip(names, pages))


def test_thirty_two_tokens_and_36_heads_are_small():
    bundle, _ = plot.explore(random_maps(6, 6, 32), "x" * 32)._repr_mimebundle_()
    assert sum(map(len, bundle.values())) < 150_000


def test_nothing_is_fetched():
    text = re.sub(r"[\w+/=]{100,}", "", page(plot.explore(MAPS, TOKENS)))  # without what is in base64
    assert not re.findall(r"https?:|//\w|@import|\burl\(|<link|<iframe|fetch\(|XMLHttp|import\(|<script [^>]", text)
    assert re.findall(r"\b(?:src|href)=.{0,11}", text) == ['src="data:image']


@pytest.mark.parametrize(
    "maps, tokens, message",
    [
        (MAPS, TOKENS[:5], "5 tokens for maps of 6 positions"),
        ([], TOKENS, "no maps: run the model inside"),
        ([m.expand(3, 2, 6, 6) for m in MAPS], TOKENS, "a batch of 3 sequences: choose one, as in"),
        ([MAPS[0], MAPS[1, :1]], TOKENS, "every layer must have the same shape"),
        (MAPS[..., :5, :], TOKENS, "same shape .heads, T, T."),
        (MAPS * 1.05, TOKENS, "each row must sum to 1"),
        (MAPS * torch.nan, TOKENS, "none missing"),
        (torch.tensor([[1.0, 0.0], [1.5, -0.5]]), "ab", "no number below 0"),
    ],
)
def test_what_is_no_map_is_refused(maps, tokens, message):
    with pytest.raises(ValueError, match=message):
        plot.explore(maps, tokens)


@pytest.mark.parametrize("start", [{"layer": 3}, {"head": 2}, {"layer": -1}])
def test_a_layer_or_head_that_is_not_there(start):
    ((name, chosen),) = start.items()
    with pytest.raises(ValueError, match=f"no {name} {chosen}: choose from 0 to {3 - 1 if name == 'layer' else 1}"):
        plot.explore(MAPS, TOKENS, **start)


# --- without scripts ----------------------------------------------------------------------------------------------


def test_the_table_says_where_each_position_looks_most():
    header, *rows = table(page(plot.explore(MAPS, TOKENS, layer=1)))
    assert header == ["position", "head 0", "head 1"]
    assert [row[0] for row in rows] == [f"{i} {token}" for i, token in enumerate(SHOWN)]
    for t, row in enumerate(rows):
        for h in range(2):
            at = MAPS[1, h, t].argmax().item()
            position, token, weight = re.fullmatch(r"(\d+) (.+) (\d+) %", row[1 + h]).groups()
            assert (int(position), token) == (at, SHOWN[at])
            assert abs(int(weight) - 100 * MAPS[1, h, t, at].item()) <= 0.5021


@pytest.mark.parametrize("H, T", [(2, 6), (8, 6), (2, 100), (1, 1)])
def test_the_picture_shows_every_head_of_the_layer(H, T):
    maps = random_maps(2, H, T)
    text = page(plot.explore(maps, "x" * T, layer=1))
    pixels = (255 * picture(text)[..., :3]).round().astype(int)
    size, columns = max(1, 64 // T), min(H, 6)
    step, scale = T * size + 2, ["#ffffff", "#9d85c9", "#2d1160"]
    assert pixels.shape == (step * -(-H // columns), step * columns, 3)
    for h in range(H):
        top, left = step * (h // columns) + 1, step * (h % columns) + 1
        cells = pixels[top : top + T * size : size, left : left + T * size : size]
        expected = [[shade(percent, scale) for percent in row] for row in whole_percents(maps[1, h]).tolist()]
        assert (cells == expected).all(), h
    assert 'alt="Layer 1, one map a head' in text


def test_a_large_picture_is_whole():
    pixels = (torch.arange(300 * 400).reshape(300, 400) % 5).to(torch.uint8)  # more than one stored block
    read = plt.imread(io.BytesIO(base64.b64decode(png(pixels, [(40 * i, 0, 0) for i in range(5)]))), format="png")
    assert ((255 * read[..., 0]).round() == 40 * pixels.numpy()).all()


def test_pages_that_show_no_html_have_a_picture_and_words():
    data, metadata = plot.explore(MAPS, TOKENS, layer=2, head=1)._repr_mimebundle_()
    shown = plt.imread(io.BytesIO(base64.b64decode(data["image/png"])), format="png")
    assert min(shown.shape[:2]) > 300 and shown.std() > 0
    words = "Attention of 6 tokens, 3 layers of 2 heads each; here layer 2, head 1."
    assert data["text/plain"] == words and metadata == {"image/png": {"alt": words}}


def test_hostile_tokens_stay_text(recwarn):
    text = page(plot.explore(random_maps(T=len(HOSTILE)), HOSTILE))
    shown = [plot.visible(token) for token in HOSTILE]
    assert plot.explore(random_maps(T=len(HOSTILE)), HOSTILE)._repr_mimebundle_()[0]["text/html"] == text
    assert text.count("<script") == text.count("</script>") == 1 and "<!--" not in text
    assert script_data(text)["tokens"] == shown
    cells = [row[0] for row in table(text)[1:]]
    assert cells == [f"{i} {token}" for i, token in enumerate(shown)]
    assert not recwarn.list, "a letter that the font lacks is no warning"


# --- how it looks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_numbers_can_be_read_on_every_shade(theme):
    colours = {"none": "#ffffff", "half": "#9d85c9", "full": "#2d1160"}
    colours.update(re.findall(r"--([\w-]+): (#\w{6})", STYLE.split("}")[0] if theme == "light" else DARK))

    def brightness(colour):  # relative luminance, WCAG 2.2
        parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return parts[0] * 0.2126 + parts[1] * 0.7152 + parts[2] * 0.0722

    greys = []
    for percent in range(101):
        ground = brightness(shade(percent, [colours[name] for name in ("none", "half", "full")]))
        text = brightness(shade(0, [colours["on-more" if percent > 61 else "on-less"]] * 3))
        assert (max(ground, text) + 0.05) / (min(ground, text) + 0.05) >= 4.5, percent
        greys.append(ground)
    assert (np.diff(greys) * (-1 if theme == "light" else 1) > 0).all(), "more weight stands out more, step by step"


# --- in a browser -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser):
    """A function that opens a page with the given pieces and fails on any error in its scripts."""
    contexts, errors = [], []

    def open_page(*pieces, **options):
        contexts.append(browser.new_context(**options))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(30_000)
        tab.on("pageerror", lambda error: errors.append(error))
        tab.on("request", lambda request: request.url.startswith(("data:", "about:")) or errors.append(request.url))
        tab.set_content("<!doctype html><meta charset=utf-8><body>" + "<hr>".join(pieces))
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def numbers(form):
    """What the cells say: the row of tokens first, then head by head; None where the future is blank."""
    rows = form.locator("[role=toolbar], label.row").evaluate_all(
        """rows => rows.map(row => [...row.querySelectorAll(".cell")].map(
            cell => cell.classList.contains("masked") ? null : (cell.querySelector("b") || cell).textContent))"""
    )
    return [[int(cell) if cell else cell for cell in row] for row in rows]


def expected(layer, head, position):
    percents = whole_percents(MAPS[layer]).tolist()
    rows = [percents[h][position] for h in (head, 0, 1)]
    return [[weight if to <= position else None for to, weight in enumerate(row)] for row in rows]


def sentence(form):
    return re.sub("[\u2068\u2069]", "", form.locator("[aria-live]").inner_text())


def test_pointing_shows_where_every_head_looks(opened):
    tab = opened(page(plot.explore(MAPS, TOKENS, layer=1, head=1)))
    form, tiles = tab.locator("form"), tab.locator("button")
    assert not tab.locator("table").is_visible() and not tab.locator("img").is_visible()
    assert tiles.locator("bdi").all_inner_texts() == SHOWN
    assert {cell for row in numbers(form) for cell in row} == {""}, "no number before one asks for them"
    tab.get_by_label("numbers").check()
    assert numbers(form) == expected(1, 1, 5), "first the last position, which may look everywhere"
    for position in (4, 0, 2):
        tiles.nth(position).hover()
        assert numbers(form) == expected(1, 1, position)
    tab.get_by_label("layer 2").check()
    tab.get_by_label("head 0").check()
    assert numbers(form) == expected(2, 0, 2)
    order = sorted(range(3), key=lambda to: -MAPS[2, 0, 2, to])
    weights = whole_percents(MAPS[2, 0, 2]).tolist()
    first, second, third = [f"{to} ‘{SHOWN[to]}’ ({weights[to]} %)" for to in order]
    told = f"Position 2 ‘␣’, layer 2, head 0: looks most at {first}, then {second} and {third}."
    assert sentence(form) == told
    tab.get_by_label("numbers").uncheck()
    assert {cell for row in numbers(form) for cell in row} == {"", None}


def test_a_darker_cell_has_more_weight(opened):
    tab = opened(page(plot.explore(torch.tensor([[1.0, 0], [0.25, 0.75]]), "ab")))
    cells = tab.locator("label .cell")
    colours = cells.evaluate_all("cells => cells.map(cell => getComputedStyle(cell).backgroundColor)")
    found = [[255 * float(part) for part in re.findall(r"\d[\d.]*", colour)] for colour in colours]  # color(srgb r g b)
    for colour, percent in zip(found, (25, 75)):
        np.testing.assert_allclose(colour, shade(percent, ["#ffffff", "#9d85c9", "#2d1160"]), atol=1.5)


def test_everything_can_be_reached_by_keyboard(opened):
    tab = opened(page(plot.explore(MAPS, TOKENS)))
    form, press = tab.locator("form"), tab.keyboard.press
    tab.get_by_label("layer 0").focus()
    press("ArrowRight")  # layer 1
    press("Tab")
    press("Space")  # numbers
    press("Tab")  # the tokens: the last one
    press("ArrowLeft")
    assert numbers(form) == expected(1, 0, 4)
    press("Home")
    assert numbers(form) == expected(1, 0, 0)
    press("ArrowLeft")  # nothing before the first
    press("End")
    press("ArrowLeft")
    press("Enter")
    assert tab.locator("[aria-pressed=true]").get_attribute("aria-label").startswith("4 ")
    press("ArrowLeft")
    tab.locator("button").nth(1).hover()
    assert numbers(form) == expected(1, 0, 4), "held"
    press("Escape")
    assert tab.locator("[aria-pressed=true]").count() == 0
    press("ArrowLeft")
    assert numbers(form) == expected(1, 0, 2)
    press("Tab")  # the heads
    press("ArrowDown")
    press("Enter")
    tab.evaluate("document.forms[0].requestSubmit()")  # as some browsers do at Enter: the page must stay
    tab.wait_for_timeout(50)
    assert numbers(form) == expected(1, 1, 2)


def test_a_finger_holds_a_token_and_lets_go(opened):
    long = plot.explore(random_maps(T=60), "x" * 60)
    tab = opened(page(long), has_touch=True, viewport={"width": 390, "height": 800})
    tab.locator("button").nth(3).tap()
    assert sentence(tab).startswith("Position 3 ") and tab.locator("[aria-pressed=true]").count() == 1
    tab.locator("button").nth(1).tap()
    assert sentence(tab).startswith("Position 1 ")
    tab.locator("button").nth(1).tap()
    assert tab.locator("[aria-pressed=true]").count() == 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390, "it scrolls within, not the page"


def test_several_on_a_page_do_not_disturb_each_other(opened):
    one, other = page(plot.explore(MAPS, TOKENS)), page(plot.explore(MAPS, TOKENS, layer=2))
    tab = opened(one, one, other)
    forms = tab.locator("form")
    assert forms.count() == 3
    before = [sentence(forms.nth(i)) for i in range(3)]
    forms.nth(1).get_by_label("layer 1").check()
    forms.nth(1).get_by_label("head 1").check()
    forms.nth(1).locator("button").nth(2).click()
    assert sentence(forms.nth(1)).startswith("Position 2 ‘␣’, layer 1, head 1: ")
    assert [sentence(forms.nth(i)) for i in (0, 2)] == [before[0], before[2]]
    checked = forms.evaluate_all("forms => forms.map(form => form.querySelectorAll('[type=radio]:checked').length)")
    assert checked == [2, 2, 2]


def test_a_notebook_puts_the_script_in_later(opened):
    tab = opened("<div id=output></div>")
    for _ in range(2):  # as JupyterLab does, and again when the cell runs again
        tab.evaluate(
            """text => {
                output.innerHTML = text;
                for (const old of output.querySelectorAll("script")) {
                    const script = document.createElement("script");
                    script.textContent = old.textContent;
                    old.replaceWith(script);
                }
            }""",
            page(plot.explore(MAPS, TOKENS)),
        )
        assert tab.locator("form").count() == 1 and not tab.locator("table").is_visible()


def test_hostile_tokens_do_no_harm_on_a_page(opened):
    tab = opened(page(plot.explore(random_maps(T=len(HOSTILE)), HOSTILE)))
    shown = tab.locator("bdi").evaluate_all("tokens => tokens.map(token => token.textContent)")
    assert shown == [plot.visible(token) for token in HOSTILE]


def test_where_scripts_do_not_run_the_picture_and_the_table_stand(opened):
    tab = opened(page(plot.explore(MAPS, TOKENS)), java_script_enabled=False)
    assert tab.locator("table").is_visible() and tab.locator("img").is_visible()
    assert tab.locator("form").count() == 0 and "percent(" not in tab.locator("body").inner_text()


def test_dark_and_light_as_the_page_says(opened):
    tab = opened(page(plot.explore(MAPS, TOKENS)))
    for page_says, system, dark in [
        ("document.title = ''", "light", False),
        ("document.title = ''", "dark", True),
        ("document.body.dataset.jpThemeLight = 'true'", "dark", False),
        ("document.body.dataset.jpThemeLight = 'false'", "light", True),
        ("document.documentElement.setAttribute('theme', 'dark')", "light", True),
        ("document.documentElement.setAttribute('theme', 'light')", "dark", False),
        ("document.body.className = 'vscode-dark'", "light", True),
        ("document.body.className = 'vscode-light'", "dark", False),
    ]:
        tab.emulate_media(color_scheme=system)
        tab.evaluate(page_says)
        ground = tab.locator("form").evaluate("form => getComputedStyle(form).backgroundColor")
        assert ground == ("rgb(22, 19, 28)" if dark else "rgb(255, 255, 255)"), (page_says, system)
        tab.evaluate(
            """() => {
                delete document.body.dataset.jpThemeLight;
                document.body.className = "";
                document.documentElement.removeAttribute("theme");
            }"""
        )
