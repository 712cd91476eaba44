"""The attention explorer: what it stores is what was given, and in a real browser it shows just that."""

import base64
import hashlib
import html
import importlib.resources
import io
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from browser import chromium
from matplotlib.colors import to_hex

from gptlib import explorer, plot, probe
from gptlib.explorer import explore, to_percent
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
STYLE = importlib.resources.files("gptlib.explorer").joinpath("explorer.css").read_text("utf-8")


def random_maps(L=3, H=2, T=6, causal=True, seed=0):
    """Weights (L, H, T, T), each row with a clear favorite."""
    scores = 2 * torch.randn(L, H, T, T, generator=torch.Generator().manual_seed(seed))
    if causal:
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf)
    return scores.softmax(dim=-1)


MAPS = random_maps()


def page(maps, tokens, **start):
    return explore(maps, tokens, **start)._repr_html_()


def script_data(text):
    """The data in the script, read the way the browser reads it."""
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    (data,) = re.findall(r"^explorer\((\{.*\})\);$", script, flags=re.MULTILINE)
    return json.loads(data)


def decoded(data):
    """The weights (L, H, T, T) in percent that the script holds."""
    L, H, T = data["layers"], data["heads"], len(data["tokens"])
    found = np.frombuffer(base64.b64decode(data["weights"]), dtype=np.uint8).reshape(L, H, -1)
    weights = np.zeros((L, H, T, T), dtype=int)
    rows, columns = np.tril_indices(T) if data["causal"] else np.indices((T, T)).reshape(2, -1)
    weights[:, :, rows, columns] = found
    return weights


def image(text):
    """The picture that stands on the page without scripts, and the text for those who cannot see it."""
    (alt, source), *others = re.findall(r'<img width="\d+" alt="([^"]+)" src="data:image/png;base64,([^"]+)"', text)
    assert not others
    return plt.imread(io.BytesIO(base64.b64decode(source)), format="png"), html.unescape(alt)


# --- what is stored -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("T", [1, 2, 7, 100])
def test_the_script_holds_the_maps(T, causal):
    maps = random_maps(T=T, causal=causal)
    data = script_data(page(maps, "x" * T))
    assert data["causal"] == (causal or T == 1)
    assert np.abs(decoded(data) - 100 * maps.numpy()).max() <= 0.5021
    assert len(base64.b64decode(data["weights"])) == 6 * (T * (T + 1) // 2 if causal else T * T)


def test_a_map_that_attends_to_a_later_position_a_little_is_not_taken_for_causal():
    maps = torch.tensor([[0.999, 0.001], [0.5, 0.5]])
    assert not script_data(page(maps, "ab"))["causal"]


def test_no_average_sits_between_two_percents():
    for n in range(1, 129):
        fractions = torch.arange(n + 1, dtype=torch.float64) / n
        for nudge in (-1e-7, 1e-7):
            assert (to_percent(fractions + nudge) == to_percent(fractions)).all(), n
    weights = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    assert (to_percent(weights).double() - 100 * weights).abs().max() <= 0.5021
    assert to_percent(torch.tensor([0.0, 1.0])).tolist() == [0, 100]


def test_every_shape_of_the_same_maps_is_the_same_explorer():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=6, context_length=6, n_layer=3, n_head=2, n_embd=8)).eval()
    with probe.attention(model) as maps:
        model(torch.arange(6)[None])
    recorded = page(maps, TOKENS)
    np.testing.assert_allclose(
        decoded(script_data(recorded)), 100 * torch.cat(list(maps)).detach().numpy(), atol=0.5021
    )
    assert recorded == page([m[0] for m in maps], TOKENS) == page(torch.cat(list(maps)), TOKENS)
    one = page(MAPS[:1, :1], TOKENS)
    assert one == page(MAPS[0, :1], TOKENS) == page(MAPS[0, 0], TOKENS) == page([MAPS[0, 0]], TOKENS)
    assert page(MAPS.bfloat16(), TOKENS), "low precision sums to 1 only roughly"


def test_the_same_maps_are_the_same_data():
    plt.close("all")
    assert page(MAPS, TOKENS) == page(MAPS, TOKENS)
    nudged = MAPS * (1 + 1e-7 * torch.randn(MAPS.shape, generator=torch.Generator().manual_seed(1)))
    assert script_data(page(nudged, TOKENS)) == script_data(page(MAPS, TOKENS)), "the last digits of another machine"
    assert plt.get_fignums() == [], "no figure is left open"


def test_other_content_has_another_name():
    pages = [page(MAPS, TOKENS), page(MAPS, TOKENS, head=1), page(MAPS, TOKENS[::-1]), page(MAPS.flip(0), TOKENS)]
    names = [script_data(text)["name"] for text in pages]
    data = script_data(pages[0])
    assert data.pop("name") == hashlib.sha256(json.dumps(data).encode()).hexdigest()[:12], "nothing random"
    assert len(set(names)) == 4
    assert all(f'data-explorer="{name}"' in text for name, text in zip(names, pages))


def test_it_starts_where_it_is_told():
    for start in ({}, {"layer": 2}, {"head": 1}, {"layer": 1, "head": 1}):
        data = script_data(page(MAPS, TOKENS, **start))
        assert (data["layer"], data["head"]) == (start.get("layer", 0), start.get("head", 0))


def test_thirty_two_tokens_and_36_heads_are_small():
    assert len(page(random_maps(6, 6, 32), "x" * 32)) < 150_000


def test_nothing_is_fetched():
    text = re.sub(r"[\w+/=]{100,}", "", page(MAPS, TOKENS))  # without what is in base64
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
        (MAPS[0, 0, 0], TOKENS, "same shape .heads, T, T."),
        ([MAPS[None]], TOKENS, "same shape .heads, T, T."),
        (MAPS * 1.05, TOKENS, "each row must sum to 1"),
        (MAPS * torch.nan, TOKENS, "none missing"),
        (torch.tensor([[1.0, 0.0], [1.5, -0.5]]), "ab", "no number below 0"),
        (torch.zeros(1, 0, 0), "", "0 tokens in 1 layers of 1 heads"),
        (torch.eye(257), "x" * 257, "257 tokens in 1 layers of 1 heads .* 256 tokens"),
        (torch.eye(200).expand(6, 9, 200, 200), "x" * 200, "200 tokens in 6 layers of 9 heads .* 2,000,000 weights"),
    ],
)
def test_what_is_no_map_or_too_large_is_refused(maps, tokens, message):
    with pytest.raises(ValueError, match=message):
        explore(maps, tokens)


def test_the_largest_page_still_opens():
    assert explorer.MAX_TOKENS == 256 and len(page(torch.eye(256).expand(5, 6, 256, 256), "x" * 256)) < 2_000_000


@pytest.mark.parametrize("start", [{"layer": 3}, {"head": 2}, {"layer": -1}])
def test_a_layer_or_head_that_is_not_there(start):
    ((name, chosen),) = start.items()
    with pytest.raises(ValueError, match=f"no {name} {chosen}: choose from 0 to {3 - 1 if name == 'layer' else 1}"):
        explore(MAPS, TOKENS, **start)


# --- without scripts ----------------------------------------------------------------------------------------------


def test_the_picture_shows_every_head_of_the_layer(monkeypatch):
    drawn = []
    heads = plot.heads
    monkeypatch.setattr(
        plot, "heads", lambda weights, tokens: drawn.append((weights, tokens)) or heads(weights, tokens)
    )
    explored = explore(MAPS, TOKENS, layer=1)
    ((weights, tokens),) = drawn
    assert tokens == SHOWN and torch.allclose(weights, MAPS[1].double())
    axes = heads(MAPS[1], TOKENS)
    expected = plot.Picture(axes[0].figure, "").png
    plt.close("all")
    words = "Attention over 6 tokens in layer 1 (of 3, counted from 0): one map for each of its 2 heads."
    pixels, alt = image(explored._repr_html_())
    assert alt == words == repr(explored)
    assert (pixels == plt.imread(io.BytesIO(base64.b64decode(expected)), format="png")).all()


def test_hostile_tokens_stay_text(recwarn):
    text = page(random_maps(T=len(HOSTILE)), HOSTILE)
    assert text.count("<script") == text.count("</script>") == 1 and "<!--" not in text
    assert script_data(text)["tokens"] == [plot.visible(token) for token in HOSTILE]
    assert not recwarn.list, "a character that the font lacks is no warning"


# --- how it looks -------------------------------------------------------------------------------------------------


def theme(number):
    """The colors of the light (0) or dark (1) theme by name."""
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", STYLE)
    return {name: colors[number] for name, *colors in pairs}


def shade(percent, low, half, high):
    """The color of a weight, red, green and blue from 0 to 255, mixed evenly on each side of 50 %."""
    ends = (low, half) if percent < 50 else (half, high)
    parts = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in ends]
    return [a + (b - a) * (percent % 50 + 50 * (percent == 100)) / 50 for a, b in zip(*parts)]


def test_the_colors_are_those_of_the_other_pictures():
    light = theme(0)
    scale = [to_hex(plot.ATTENTION(weight)) for weight in (0.0, 0.5, 1.0)]
    assert light["none"] == scale[0] and light["full"] == scale[2] and light["masked"] == plot.MASKED
    np.testing.assert_allclose(shade(0, light["half"], *scale[:2]), shade(0, *scale[1:], scale[2]), atol=1.5)
    assert light["query"] == plot.QUERY.lower()


@pytest.mark.parametrize("number", [0, 1], ids=["light", "dark"])
def test_numbers_can_be_read_on_every_shade(number):
    colors = theme(number)

    def brightness(color):  # relative luminance, WCAG 2.2
        parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
        return parts[0] * 0.2126 + parts[1] * 0.7152 + parts[2] * 0.0722

    grays = []
    for percent in range(101):
        ground = brightness(shade(percent, *(colors[name] for name in ("none", "half", "full"))))
        text = brightness(shade(0, *[colors["on-more" if percent > 61 else "on-less"]] * 3))
        assert (max(ground, text) + 0.05) / (min(ground, text) + 0.05) >= 4.5, percent
        grays.append(ground)
    assert (np.diff(grays) * (1 if number else -1) > 0).all(), "more weight stands out more, step by step"


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
    percents = to_percent(MAPS[layer]).tolist()
    rows = [percents[h][position] for h in (head, 0, 1)]
    return [[weight if to <= position else None for to, weight in enumerate(row)] for row in rows]


def sentence(form):
    return re.sub("[\u2068\u2069]", "", form.locator("[aria-live]").inner_text())


def test_pointing_shows_what_every_head_attends_to(opened):
    tab = opened(page(MAPS, TOKENS, layer=1, head=1))
    form, tiles = tab.locator("form"), tab.locator("button")
    assert not tab.locator("img").is_visible()
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
    weights = to_percent(MAPS[2, 0, 2]).tolist()
    first, second, third = [f"{to} ‘{SHOWN[to]}’ ({weights[to]} %)" for to in order]
    told = f"Position 2 ‘␣’, layer 2, head 0: attends most to {first}, then {second} and {third}."
    assert sentence(form) == told
    tab.get_by_label("numbers").uncheck()
    assert {cell for row in numbers(form) for cell in row} == {"", None}


def styles(cells, what):
    """A color of each cell, red, green and blue from 0 to 255, as the browser computed it."""
    found = cells.evaluate_all(f"cells => cells.map(cell => getComputedStyle(cell).{what})")
    parts = [[float(part) for part in re.findall(r"\d[\d.]*", color.replace("srgb", ""))[:3]] for color in found]
    return [[255 * part for part in rgb] if "srgb" in color else rgb for rgb, color in zip(parts, found)]


@pytest.mark.parametrize("number", [0, 1], ids=["light", "dark"])
def test_the_shade_of_a_cell_is_that_of_its_weight(opened, number):
    weights = [0.0, 0.1, 0.25, 0.49, 0.5, 0.61, 0.62, 0.75, 1.0]
    maps = torch.stack([torch.tensor([1 - w, w]).expand(2, 2) for w in weights])  # (H, T, T): not causal
    tab = opened(page(maps, "ab"), color_scheme=["light", "dark"][number])
    colors, cells = theme(number), tab.locator("label .cell:last-child")
    scale = [colors[name] for name in ("none", "half", "full")]
    expected = [shade(round(100 * w), *scale) for w in weights]
    np.testing.assert_allclose(styles(cells, "backgroundColor"), expected, atol=1.5)
    ink = [shade(0, *[colors["on-more" if w > 0.61 else "on-less"]] * 3) for w in weights]
    assert styles(cells, "color") == ink


def test_masked_cells_are_light_grey_and_weights_of_zero_are_not(opened):
    tab = opened(page(torch.eye(3), TOKENS[:3]))
    tab.locator("button").nth(1).hover()
    white, full, gray = [255, 255, 255], shade(100, *[to_hex(plot.ATTENTION(w)) for w in (0.0, 0.5, 1.0)]), [217] * 3
    for cells in (tab.locator("label .cell"), tab.locator("button")):
        np.testing.assert_allclose(styles(cells, "backgroundColor"), [white, full, gray], atol=1)


def test_maps_that_are_not_causal_are_shown_whole(opened):
    maps = random_maps(causal=False)
    tab = opened(page(maps, TOKENS, layer=1))
    tab.get_by_label("numbers").check()
    for position in (0, 3):
        tab.locator("button").nth(position).hover()
        percents = to_percent(maps[1])[:, position].tolist()
        assert numbers(tab.locator("form")) == [percents[0], *percents]
    order = sorted(range(6), key=lambda to: -maps[1, 0, 3, to])[:3]
    percent = to_percent(maps[1, 0, 3]).tolist()
    first, second, third = [f"{to} ‘{SHOWN[to]}’ ({percent[to]} %)" for to in order]
    assert sentence(tab) == f"Position 3 ‘⏎’, layer 1, head 0: attends most to {first}, then {second} and {third}."


def test_ties_are_told_in_order_and_what_has_no_weight_is_not_told(opened):
    weights = [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0.5, 0, 0.5], [0.25, 0.25, 0.25, 0.25]]
    tab = opened(page(torch.tensor(weights), "abcd"))
    told = []
    for position in range(4):
        tab.locator("button").nth(position).hover()
        told.append(sentence(tab).partition("head 0: ")[2])
    assert told == [
        "attends most to 0 ‘a’ (100 %).",
        "attends most to 0 ‘a’ (50 %), then 1 ‘b’ (50 %).",
        "attends most to 1 ‘b’ (50 %), then 3 ‘d’ (50 %).",
        "attends most to 0 ‘a’ (25 %), then 1 ‘b’ (25 %) and 2 ‘c’ (25 %).",
    ]
    even = opened(page(torch.full((256, 256), 1 / 256), "x" * 256))
    assert sentence(even).endswith("head 0: gives no position as much as 0.5 %.")


def test_the_query_position_is_framed_and_the_chosen_head_is_marked(opened):
    tab = opened(page(MAPS, TOKENS, head=1))
    tab.locator("button").nth(2).hover()
    assert tab.locator("button.query").evaluate_all("all => all.map(one => one.querySelector('bdi').textContent)") == [
        "␣"
    ]
    assert tab.locator("button.query").evaluate("one => getComputedStyle(one).outlineColor") == "rgb(0, 114, 178)"
    assert tab.locator(".chosen .name").all_inner_texts() == ["head 1"]


def test_everything_can_be_reached_by_keyboard(opened):
    tab = opened(page(MAPS, TOKENS))
    form, press = tab.locator("form"), tab.keyboard.press
    tab.evaluate("() => { document.onkeydown = event => { window.heard = event.key; }; }")
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
    assert tab.evaluate("window.heard") is None, "JupyterLab would take an arrow key and move on to another cell"
    press("Enter")
    tab.evaluate("document.forms[0].requestSubmit()")  # as some browsers do at Enter: the page must stay
    tab.wait_for_timeout(50)
    assert numbers(form) == expected(1, 1, 2)


def test_a_finger_holds_a_token_and_lets_go(opened):
    tab = opened(page(random_maps(T=60), "x" * 60), has_touch=True, viewport={"width": 390, "height": 800})
    tab.locator("button").nth(3).tap()
    assert sentence(tab).startswith("Position 3 ") and tab.locator("[aria-pressed=true]").count() == 1
    tab.locator("button").nth(1).tap()
    assert sentence(tab).startswith("Position 1 ")
    tab.locator("button").nth(1).tap()
    assert tab.locator("[aria-pressed=true]").count() == 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390, "it scrolls within, not the page"


def test_several_on_a_page_do_not_disturb_each_other(opened):
    one, other = page(MAPS, TOKENS), page(MAPS, TOKENS, layer=2)
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
            page(MAPS, TOKENS),
        )
        assert tab.locator("form").count() == 1 and not tab.locator("img").is_visible()


def test_hostile_tokens_do_no_harm_on_a_page(opened):
    tab = opened(page(random_maps(T=len(HOSTILE)), HOSTILE))
    shown = tab.locator("bdi").evaluate_all("tokens => tokens.map(token => token.textContent)")
    assert shown == [plot.visible(token) for token in HOSTILE]


def test_where_scripts_do_not_run_the_picture_stands(opened):
    tab = opened(page(MAPS, TOKENS), java_script_enabled=False)
    assert tab.locator("img").is_visible()
    assert tab.locator("form").count() == 0 and "percent(" not in tab.locator("body").inner_text()


def test_dark_and_light_as_the_page_says(opened):
    tab = opened(page(MAPS, TOKENS))
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
