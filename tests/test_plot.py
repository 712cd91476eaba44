"""Pictures: what stands in them is read from their Axes and compared with the data; nothing compares the pixels."""

import base64
import inspect
import io
import itertools
import sys
import warnings
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.text import Text

from gptlib import plot

inf, nan = float("inf"), float("nan")
TOKENS = ["T", "o", " ", "\n", "b"]
SHOWN = ["T", "o", "␣", "⏎", "b"]
ODD = [
    "$",
    "$x$",
    "$\\frac$",
    "你",
    "😀",
    "\r",
    "\0",
    "\ufeff",
    "\ud800",
    "a_b^c",
    "^{",
    "%",
    "&",
    "",
    "\u200b",
    "שלום",
]
BASELINES = {"uniform": 4.17, "counted bigram": 2.48}
MASKED, QUERY, KEY, VALUE, GREY = "#d9d9d9", "#0072b2", "#d55e00", "#009e73", "#767676"


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def causal(*shape):
    T = shape[-1]
    return (4 * random(*shape)).masked_fill(torch.ones(T, T).triu(1).bool(), -inf).softmax(dim=-1)


TABLE, WEIGHTS = random(3, 5), causal(2, 5, 5)  # TABLE is not square, and no map is symmetric
HISTORY = SimpleNamespace(train=[4.2, 4.0, 3.5, 3.1], val=[(0, 4.17), (4, 3.0)])

# Each function of names and data, called with names of one's own.
NAMED = {
    "matrix": lambda names, ax=None: plot.matrix(random(len(names), len(names)), names, names, ax=ax),
    "attention": lambda names, ax=None: plot.attention(causal(len(names), len(names)), names, ax=ax),
    "lines": lambda names, ax=None: plot.lines(
        {n: [1, 2] for n in names}, baselines=dict.fromkeys(names[::2], inf), ax=ax
    ),
    "loss_curve": lambda names, ax=None: plot.loss_curve(HISTORY, dict.fromkeys(names, 2.0), ax=ax),
    "compare_losses": lambda names, ax=None: plot.compare_losses(
        dict.fromkeys(names, 2.0), {n: 1 + i / 9 if i % 2 else inf for i, n in enumerate(names)}, ax=ax
    ),
    "distribution": lambda names, ax=None: plot.distribution(random(len(names)), names, ax=ax),
    "histograms": lambda names, ax=None: plot.histograms({n: random(9) for n in names}, ax=ax),
    "colored_text": lambda names, ax=None: plot.colored_text(names, random(len(names)), ax=ax),
}
GRIDS = {
    "heads": lambda names: plot.heads(causal(3, len(names), len(names)), names),
    "layers": lambda names: plot.layers([causal(2, len(names), len(names))] * 2, names),
}


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No figure from before, none left behind, and nothing shown or saved by itself."""
    plt.close("all")
    for name in ("show", "savefig"):
        monkeypatch.setattr(plt, name, lambda *args, name=name, **options: pytest.fail(f"plt.{name} was called"))
    yield
    plt.close("all")


def drawn(figure=None):
    """Draw the picture, as a page would have it; a warning is an error, on the page it would be in red."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # an old matplotlib beside a new pyparsing
        (figure or plt.gcf()).canvas.draw()
    return figure or plt.gcf()


def ticks(axis):
    """The names at the ticks by where they stand."""
    names = [label.get_text() for label in axis.get_ticklabels()]
    return dict(zip(axis.get_ticklocs().tolist(), names))


def texts(ax):
    return [text.get_text() for text in ax.texts]


def color_of(ax, name):
    return {text.get_text(): to_hex(text.get_color()) for text in ax.texts}[name]


def cell_colors(image):
    return np.apply_along_axis(to_hex, -1, image.to_rgba(image.get_array()))


def shade(cmap, values, low, high):
    """The color that a value from `low` to `high` has on a scale, straight from the scale's table."""
    return np.apply_along_axis(to_hex, -1, cmap(np.clip((np.asarray(values) - low) / (high - low), 0, 1)))


# --- every function -----------------------------------------------------------------------------------------------


def test_every_function_is_drawn_here():
    takes = {n for n, f in vars(plot).items() if inspect.isfunction(f) and "ax" in inspect.signature(f).parameters}
    assert {name for name in takes if not name.startswith("_")} - {"label_ends"} == set(NAMED)
    returns = {
        n for n, f in vars(plot).items() if inspect.isfunction(f) and f.__annotations__.get("return") == np.ndarray
    }
    assert returns - {"dodge"} == set(GRIDS)


@pytest.mark.parametrize("name", NAMED)
def test_into_a_new_figure(name):
    settings = dict(plt.rcParams)
    ax = NAMED[name](list("abcde"))
    assert isinstance(ax, Axes) and plt.get_fignums() == [ax.figure.number]
    assert dict(plt.rcParams) == settings, "no global style"
    pixels = np.asarray(drawn(ax.figure).canvas.buffer_rgba()).reshape(-1, 4)
    assert len(np.unique(pixels, axis=0)) > 2, "not blank"
    assert name in ("matrix", "lines", "colored_text") or ax.get_xlabel() or ax.get_ylabel()


@pytest.mark.parametrize("name", NAMED)
def test_into_given_axes(name):
    figure, (left, right) = plt.subplots(1, 2)
    assert NAMED[name](list("abcde"), right) is right
    assert plt.get_fignums() == [figure.number] and figure.axes == [left, right]
    assert not left.has_data() and not left.texts


@pytest.mark.parametrize("name", NAMED)
def test_two_edges_are_drawn_and_four_around_a_matrix(name):
    ax = NAMED[name](list("abcde"))
    edges = {edge for edge, spine in ax.spines.items() if spine.get_visible()}
    assert edges == ({"left", "bottom", "top", "right"} if ax.images else {"left", "bottom"})


@pytest.mark.parametrize("name", [*NAMED, *GRIDS])
def test_names_are_text_and_never_mathematics(name):
    {**NAMED, **GRIDS}[name](ODD)
    figure = drawn()
    found = "".join(text.get_text() for text in figure.findobj(Text))
    signs = {"$", "x"} if name == "colored_text" else {"$", "$x$", "$\\frac$", "a_b^c"}
    assert all(sign in found for sign in signs)
    assert not any(
        text.get_parse_math() and "$" in text.get_text() for text in figure.findobj(Text) if text.get_visible()
    )


@pytest.mark.parametrize("name", [*NAMED, *GRIDS])
def test_characters_without_a_mark_or_a_glyph_have_a_stand_in(name, caplog):
    """The fonts of the tests' machine may have any of these: what is drawn must have a glyph in one of them."""
    {**NAMED, **GRIDS}[name](ODD)
    for text in drawn().findobj(Text):
        fonts = [
            font_manager.get_font(path)
            for path in font_manager.fontManager._find_fonts_by_props(text.get_fontproperties())
        ]
        for letter in text.get_text():
            assert letter == "\n" or letter.isprintable() and any(font.get_char_index(ord(letter)) for font in fonts)
    assert not caplog.records, "no font is looked for in vain"


def test_a_font_that_is_installed_is_used_before_a_stand_in(monkeypatch):
    assert plot.FONTS and len(set(plot.FONTS)) == len(plot.FONTS) and all(font == font.strip() for font in plot.FONTS)
    monkeypatch.setattr(plot, "FONTS", ["No Such Font"])
    assert [t.get_text() for t in plot.distribution([1.0, 1], ["你", "a"]).get_xticklabels()] == ["□", "a"]
    only = "𝔘"  # in DejaVu Math TeX Gyre or a font like it, not in matplotlib's own DejaVu Sans Mono
    monkeypatch.setattr(plot, "FONTS", ["No Such Font", "STIXGeneral"])
    has = {
        f: bool(font_manager.get_font(font_manager.findfont(f)).get_char_index(ord(only)))
        for f in ("STIXGeneral", "monospace")
    }
    assert has == {"STIXGeneral": True, "monospace": False}
    text = plot.colored_text([only], [0.0]).texts[0]
    assert text.get_text() == only and text.get_fontfamily() == ["monospace", "sans-serif", "STIXGeneral"]


def test_tensors_that_require_gradients_and_of_low_precision():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        table, weights = (values.clone().to(dtype).requires_grad_() for values in (TABLE, WEIGHTS))
        plot.matrix(table)
        plot.attention(weights[0], TOKENS)
        plot.heads(weights, TOKENS)
        plot.layers([weights], TOKENS)
        plot.lines({"a": table[0]}, x=table[1])
        plot.distribution(table[0], TOKENS)
        plot.histograms({"a": table})
        plot.colored_text(TOKENS, table[0])
        plt.close("all")


EMPTY = torch.zeros(0)
WRONG = {
    "matrix of one axis": lambda: plot.matrix([1.0, 2.0]),
    "matrix of three axes": lambda: plot.matrix(torch.ones(2, 2, 2)),
    "matrix of nothing": lambda: plot.matrix(torch.zeros(0, 3)),
    "matrix, 2 names for 3 rows": lambda: plot.matrix(TABLE, "ab"),
    "matrix, 3 names for 5 columns": lambda: plot.matrix(TABLE, "abc", "abc"),
    "attention of three axes": lambda: plot.attention(WEIGHTS, TOKENS),
    "attention of 4 tokens": lambda: plot.attention(WEIGHTS[0], TOKENS[:4]),
    "attention of nothing": lambda: plot.attention(torch.zeros(0, 0), []),
    "heads of one map": lambda: plot.heads(WEIGHTS[0], TOKENS),
    "heads of a batch": lambda: plot.heads(WEIGHTS[None], TOKENS),
    "heads of nothing": lambda: plot.heads(torch.zeros(0, 5, 5), TOKENS),
    "layers of nothing": lambda: plot.layers([], TOKENS),
    "layers of single maps": lambda: plot.layers([WEIGHTS[0], WEIGHTS[1]], TOKENS),
    "layers of several shapes": lambda: plot.layers([WEIGHTS, WEIGHTS[:1]], TOKENS),
    "lines of nothing": lambda: plot.lines({}),
    "a line of nothing": lambda: plot.lines({"a": []}),
    "a line of two axes": lambda: plot.lines({"a": TABLE}),
    "a line of other length than x": lambda: plot.lines({"a": [1, 2, 3]}, [0, 1]),
    "losses of nothing": lambda: plot.compare_losses({}),
    "bars of nothing": lambda: plot.distribution([], []),
    "bars of two axes": lambda: plot.distribution(TABLE, TOKENS),
    "fewer names than bars": lambda: plot.distribution(TABLE[0], TOKENS[:4]),
    "more names than bars": lambda: plot.distribution(TABLE[0], [*TOKENS, "x"], top=2),
    "a bar of nan": lambda: plot.distribution([0.5, nan], "ab"),
    "an infinite bar": lambda: plot.distribution([0.5, inf], "ab"),
    "histograms of nothing": lambda: plot.histograms({}),
    "a histogram of nothing": lambda: plot.histograms({"a": EMPTY}),
    "a histogram of nan": lambda: plot.histograms({"a": [1.0, nan]}),
    "a histogram of masked scores": lambda: plot.histograms({"a": [1.0, -inf]}),
    "text of no tokens": lambda: plot.colored_text([], EMPTY),
    "text with fewer values": lambda: plot.colored_text(TOKENS, TABLE[0, :4]),
    "text with a table of values": lambda: plot.colored_text(TOKENS, TABLE),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_what_cannot_be_drawn_is_refused_before_anything_is_drawn(call):
    with pytest.raises(ValueError, match="expected|names for|finite|nothing|no lines|no hist|no losses|same first dim"):
        call()
    if call is not WRONG["a line of other length than x"]:
        assert plt.get_fignums() == []


def test_errors_name_the_numbers():
    with pytest.raises(ValueError, match=r"\(R, N\), not \(2, 5, 5\)|\(T, T\), not \(2, 5, 5\)"):
        plot.attention(WEIGHTS, TOKENS)
    with pytest.raises(ValueError, match="4 names for N = 5"):
        plot.distribution(TABLE[0], TOKENS[:4])
    with pytest.raises(ValueError, match="3 names for N = 5"):
        plot.matrix(TABLE, "abc", "abc")
    with pytest.raises(ValueError, match="2 names for R = 3"):
        plot.matrix(TABLE, "ab")
    with pytest.raises(ValueError, match="5 names for T = 2"):
        plot.colored_text(TOKENS, [0.1, 0.2])


def test_visible():
    assert plot.visible("a\tb c\n") == "a⇥b␣c⏎"
    assert plot.visible("\r\n") == "\\r⏎" and plot.visible("\0\x1b\x7f") == "\\x00\\x1b\\x7f"
    assert plot.visible("\ufeff\u200b\u2028\ud800") == "\\ufeff\\u200b\\u2028\\ud800"
    assert plot.visible("é你😀$\\") == "é你😀$\\"


# --- the palette --------------------------------------------------------------------------------------------------


def test_each_color_means_one_thing():
    colors = [*(QUERY, KEY, VALUE), plot.TRAIN, plot.VAL, plot.BASELINE, plot.MASKED, plot.BAR, *plot.SERIES]
    assert [to_hex(c) for c in (plot.QUERY, plot.KEY, plot.VALUE)] == [QUERY, KEY, VALUE]
    assert len({to_hex(color) for color in colors}) == len(colors)
    for name, draw in {**NAMED, **GRIDS}.items():
        draw(list("abcdefgh"))
        pixels = np.asarray(drawn().canvas.buffer_rgba())[..., :3].reshape(-1, 3)
        found = {tuple(pixel) for pixel in np.unique(pixels, axis=0).tolist()}
        reserved = {tuple(round(255 * part) for part in to_rgba(color)[:3]) for color in (QUERY, KEY, VALUE)}
        assert not found & reserved, name


def test_darker_means_more_also_without_color():
    for scale in (plot.ATTENTION, plot.PROBABILITY):
        assert to_hex(scale(0.0)) == "#ffffff", "nothing is white"
        assert (np.diff(scale(np.linspace(0, 1, 50))[:, :3] @ [0.299, 0.587, 0.114]) < 0).all()
    assert to_hex(plot.SIGNED(128)) > "#fdfdfd" and np.isclose(plot.SIGNED(0.5)[:3], 1, atol=0.01).all()


# --- matrices -----------------------------------------------------------------------------------------------------


def test_a_matrix_has_its_numbers_its_names_and_its_colors_in_their_cells():
    values = torch.tensor([[1.0, -3.0, 0.5], [2.0, 0.25, -0.125]])
    ax = plot.matrix(values, ["up", "low"], range(3))
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array(), values)
    assert image.get_clim() == (-3, 3), "white is 0"
    assert (cell_colors(image) == shade(plot.SIGNED, values, -3, 3)).all()
    assert {text.get_position(): text.get_text() for text in ax.texts} == {
        (n, r): f"{values[r, n]:.2f}" for r in range(2) for n in range(3)
    }
    assert ticks(ax.yaxis) == {0: "up", 1: "low"} and ticks(ax.xaxis) == {0: "0", 1: "1", 2: "2"}
    assert ax.get_ylim() == (1.5, -0.5), "row 0 on top"
    assert ax.get_aspect() == 1


def test_the_ink_of_a_number_is_white_on_dark_cells():
    ax = plot.matrix([[0.0, 1.0], [0.45, 0.9]], cmap=plot.ATTENTION, limits=(0, 1))
    assert [text.get_color() for text in ax.texts] == ["black", "white", "black", "white"]


def test_limits_are_kept_and_a_matrix_of_zeros_is_white():
    assert plot.matrix([[-1.0, 5.0]], limits=(-2, 8)).images[0].get_clim() == (-2, 8)
    assert plot.matrix([[1.0, 5.0]], limits=(0, 0.5)).images[0].get_clim() == (0, 0.5)
    assert plot.matrix([[1.0, -7.0]]).images[0].get_clim() == (-7, 7), "the largest size, not the largest number"
    for values in ([[0.0, 0.0]], [[-inf, inf]]):
        low, high = plot.matrix(values).images[0].get_clim()
        assert low == -high < 0


def test_blank_cells_and_cells_that_are_not_finite_are_light_grey_and_have_no_number():
    values = torch.tensor([[1.0, -inf, 3.0], [nan, 9.0, 0.0]])
    blank = torch.tensor([[False, False, False], [False, True, False]])
    for cmap in (plot.SIGNED, plot.PROBABILITY, "viridis"):
        ax = plot.matrix(values, cmap=cmap, blank=blank)
        grey = cell_colors(ax.images[0]) == MASKED
        assert grey.tolist() == [[False, True, False], [True, True, False]]
        assert {text.get_position() for text in ax.texts} == {(0, 0), (2, 0), (2, 1)}
        assert ax.images[0].get_clim() == (-3, 3), "a hidden cell stretches no scale"


def test_few_cells_carry_their_numbers_and_many_do_not():
    assert len(texts(plot.matrix(torch.ones(4, 25)))) == 100 and texts(plot.matrix(torch.ones(1, 101))) == []
    assert len(texts(plot.matrix(torch.ones(1, 101), numbers=True))) == 101
    assert texts(plot.matrix(torch.ones(2, 2), numbers=False)) == []
    assert len(texts(plot.attention(WEIGHTS[0], TOKENS))) == 15, "none in a masked cell"
    assert texts(plot.attention(WEIGHTS[0], TOKENS, numbers=False)) == []


def test_names_are_written_at_8_points_or_more_and_as_many_as_fit():
    for count, width, height in itertools.product((3, 19, 30, 65, 300), (None, 3), (None, 3)):
        ax = None if width is None else plt.subplots(figsize=(width, height or 3), layout="constrained")[1]
        names = [chr(0x100 + i) for i in range(count)]
        ax = plot.matrix(random(count, count), names, names, numbers=False, ax=ax)
        drawn(ax.figure)
        for axis, side in ((ax.xaxis, "width"), (ax.yaxis, "height")):
            named = ticks(axis)
            assert all(names[int(at)] == name for at, name in named.items()) and len(named) > 1 and named[0] == names[0]
            assert {label.get_size() for label in axis.get_ticklabels()} <= {8, 10}
            points = getattr(ax.get_window_extent(), side) * 72 / ax.figure.dpi
            assert points / len(named) > 6, "they do not run into each other"
            assert count > 19 or width or len(named) == count, "all of a short passage"
        plt.close("all")


def test_names_that_are_too_wide_for_their_cell_stand_upright():
    def turn(names):
        ax = plot.matrix(torch.ones(len(names), len(names)), names, names)
        assert {label.get_rotation() for label in ax.get_yticklabels()} == {0}
        return {label.get_rotation() for label in ax.get_xticklabels()}

    assert turn(["a", "b", "c"]) == turn(list("abcdefghij" * 4)) == turn(["ab", "cd"]) == {0}
    assert turn(["a", "a long name", "c"]) == {90}


def test_an_attention_map_has_a_fixed_scale_and_its_future_is_grey():
    ax = plot.attention(WEIGHTS[0] / 10, TOKENS)
    (image,) = ax.images
    assert image.get_clim() == (0, 1)
    past = np.tril(np.ones((5, 5), dtype=bool))
    colors = cell_colors(image)
    assert (colors[~past] == MASKED).all() and (colors == shade(plot.ATTENTION, WEIGHTS[0] / 10, 0, 1))[past].all()
    assert {text.get_position(): text.get_text() for text in ax.texts} == {
        (key, query): f"{WEIGHTS[0, query, key] / 10:.2f}" for query in range(5) for key in range(query + 1)
    }
    assert ax.get_xlabel() == "key position" and ax.get_ylabel() == "query position"
    assert ticks(ax.xaxis) == ticks(ax.yaxis) == dict(enumerate(SHOWN))
    (scale,) = set(ax.figure.axes) - {ax}
    assert scale.get_ylabel() == "attention weight" and list(scale.get_yticks()) == [0, 0.5, 1]


def test_a_weight_of_zero_is_white_and_a_masked_one_grey():
    weights = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0.5, 0.5]])
    assert cell_colors(plot.attention(weights, "abc").images[0])[1].tolist() == ["#ffffff", "#2d1160", MASKED]


def test_a_map_of_cross_attention_has_tokens_on_both_axes_and_no_masked_cell():
    weights = torch.eye(3, 5)
    ax = plot.attention(weights, "ab ", TOKENS)
    np.testing.assert_allclose(ax.images[0].get_array(), weights)
    assert ticks(ax.yaxis) == {0: "a", 1: "b", 2: "␣"} and ticks(ax.xaxis) == dict(enumerate(SHOWN))
    assert not (cell_colors(ax.images[0]) == MASKED).any() and ax.images[0].get_clim() == (0, 1)
    assert not (cell_colors(plot.attention(torch.eye(3), "abc", "def").images[0]) == MASKED).any()
    drawn(ax.figure)
    with pytest.raises(ValueError, match="5 names for S = 4|5 names for N = 4"):
        plot.attention(torch.eye(3, 4), "abc", TOKENS)
    with pytest.raises(ValueError, match=r"\(T, S\), not \(1, 3, 5\)"):
        plot.attention(weights[None], "abc", TOKENS)


def test_attention_to_later_positions_has_no_masked_cell():
    weights = torch.eye(5)
    weights[0] = torch.tensor([0.999, 0, 0, 0, 0.001])
    assert not (cell_colors(plot.attention(weights, TOKENS).images[0]) == MASKED).any()
    assert not (cell_colors(plot.attention([[1.0]], "a").images[0]) == MASKED).any()


@pytest.mark.parametrize("H, columns", [(1, 4), (2, 4), (3, 2), (4, 4), (6, 4)])
def test_a_panel_for_each_head(H, columns):
    weights = causal(H, 5, 5)
    axes = plot.heads(weights, TOKENS, columns=columns)
    figure = axes[0].figure
    assert axes.shape == (H,) and plt.get_fignums() == [figure.number]
    for h, ax in enumerate(axes):
        assert (cell_colors(ax.images[0]) == cell_colors(plot.attention(weights[h], TOKENS).images[0])).all()
        assert ax.get_title() == f"head {h}" and ax.images[0].get_clim() == (0, 1) and texts(ax) == []
        row, column = divmod(h, min(columns, H))
        assert ax.get_subplotspec().rowspan.start == row and ax.get_subplotspec().colspan.start == column
        tick = (ax.yaxis.get_major_ticks()[0].label1.get_visible(), ax.xaxis.get_major_ticks()[0].label1.get_visible())
        assert tick == (column == 0, h + columns >= H), "named at the outer edges, and above a gap"
        assert ticks(ax.xaxis) == (dict(enumerate(SHOWN)) if h + columns >= H else {})
        assert ticks(ax.yaxis) == ({} if column else dict(enumerate(SHOWN)))
        assert {label.get_size() for label in ax.get_xticklabels() + ax.get_yticklabels()} <= {8}
    assert figure.get_supxlabel() == "key position" and figure.get_supylabel() == "query position"
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == H + 1 and shown[-1].get_ylabel() == "attention weight"
    drawn(figure)


def test_a_panel_for_each_head_of_each_layer():
    maps = causal(3, 2, 5, 5)
    axes = plot.layers(list(maps), TOKENS)
    assert axes.shape == (3, 2)
    for layer, h in itertools.product(range(3), range(2)):
        ax = axes[layer, h]
        np.testing.assert_allclose(ax.images[0].get_array().filled(0), maps[layer, h])
        assert ax.get_subplotspec().rowspan.start == layer and ax.get_subplotspec().colspan.start == h
        assert ax.get_title() == (f"head {h}" if layer == 0 else "")
        assert ax.get_ylabel() == ("" if h else f"layer {layer}")


# --- curves -------------------------------------------------------------------------------------------------------


def test_dodge_is_the_least_squares_solution():
    generator = np.random.default_rng(0)
    for n in (1, 2, 5, 9):
        at = np.sort(generator.uniform(0, 5, n))
        moved = plot.dodge(at, 1.0)
        assert (np.diff(moved) > 1 - 1e-9).all()
        for _ in range(200):  # no other allowed positions are nearer
            other = moved + generator.normal(0, 0.1, n)
            if (np.diff(other) >= 1).all():
                assert ((other - at) ** 2).sum() >= ((moved - at) ** 2).sum() - 1e-9
    assert plot.dodge([], 1).tolist() == [] and plot.dodge([0, 2, 4], 1).tolist() == [0, 2, 4]
    assert plot.dodge([0, 0.5, 9], 1, low=1).tolist() == [1, 2, 9]


def label_heights(ax):
    """The middle of each name, on the scale of the y-axis."""
    drawn(ax.figure)
    boxes = {text.get_text(): text.get_window_extent() for text in ax.texts}
    return {name: ax.transData.inverted().transform((0, (box.y0 + box.y1) / 2))[1] for name, box in boxes.items()}


def test_lines_are_named_at_their_ends_in_their_colors():
    series = {"rising": [1, 2, 4], "falling": torch.tensor([9.0, 5, 3]), "$flat$": np.ones(3)}
    ax = plot.lines(series, [0, 5, 10], xlabel="depth", ylabel="size", baselines={"even": 7})
    curves = [line for line in ax.lines if len(line.get_xdata()) == 3]
    for line, (name, y), color in zip(curves, series.items(), plot.SERIES, strict=False):
        assert list(line.get_xdata()) == [0, 5, 10] and list(line.get_ydata()) == list(y)
        assert to_hex(line.get_color()) == to_hex(color) == color_of(ax, name)
        assert label_heights(ax)[name] == pytest.approx(float(y[-1]), abs=0.1)
    (baseline,) = (line for line in ax.lines if line not in curves)
    assert list(baseline.get_ydata()) == [7, 7] and list(baseline.get_xdata()) == [0, 1], "across"
    assert to_hex(baseline.get_color()) == color_of(ax, "even") == GREY and baseline.get_linewidth() < 1
    assert label_heights(ax)["even"] == pytest.approx(7, abs=0.1)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("depth", "size", "linear")
    assert all(text.get_window_extent().x0 > ax.get_window_extent().x1 for text in ax.texts), "right of the curves"


def test_lines_take_positions_colors_and_a_log_scale():
    ax = plot.lines({"a": [1, 10, 100], "b": [2, 2, 2], "c": [1, 1, 1]}, log=True, colors=["red", "blue"])
    assert ax.get_yscale() == "log" and [list(line.get_xdata()) for line in ax.lines] == [[0, 1, 2]] * 3
    assert [line.get_color() for line in ax.lines] == ["red", "blue", "red"]
    assert color_of(ax, "a") == to_hex("red") and color_of(ax, "b") == to_hex("blue")
    assert label_heights(ax)["a"] == pytest.approx(100, rel=0.05)
    tiny = plot.lines({"a": torch.tensor([1.0, 1e-60], dtype=torch.float64)}, log=True)
    assert float(tiny.lines[0].get_ydata()[1]) == 1e-60, "float64 stays float64"
    given = plt.subplots()[1]
    given.set_yscale("log")
    assert plot.lines({"a": [1, 2]}, ax=given).get_yscale() == "log", "a scale that was set stays"


def test_few_points_are_marked_and_many_are_not():
    marks = [line.get_marker() for line in plot.lines({"few": range(16), "many": range(17)}).lines]
    assert marks == ["o", "None"]


def test_names_at_the_ends_do_not_overlap_and_stay_above_the_x_axis():
    for baselines in ({"d": 1.0, "e": 0.0}, dict.fromkeys("efghij", 0.0)):
        ax = plot.lines({"a": [0, 1.0], "b": [0, 1.001], "c": [0, 1.002]}, baselines=baselines)
        drawn(ax.figure)
        boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
        assert len(boxes) == 3 + len(baselines)
        assert all(upper.y0 >= lower.y1 - 2 for lower, upper in zip(boxes, boxes[1:]))
        assert boxes[0].y0 > ax.get_window_extent().y0 - 8
        heights = label_heights(ax)
        assert heights["a"] < heights["b"] < heights["c"], "in the order of the lines"


def test_names_follow_when_the_limits_change():
    ax = plot.lines({"a": [0, 1.0], "b": [0, 4.0]}, baselines={"none": inf})
    ax.set_ylim(0, 20)
    heights = label_heights(ax)
    assert heights["a"] == pytest.approx(1, abs=0.2) and heights["b"] == pytest.approx(4, abs=0.2)
    assert heights["none (infinite)"] == pytest.approx(20, abs=0.5)


@pytest.mark.parametrize(
    "call", [lambda b: plot.lines({"a": [4, 3]}, baselines=b), lambda b: plot.loss_curve(HISTORY, b)]
)
def test_an_infinite_baseline_is_left_out_and_said_to_be_infinite(call):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain, ax = call({"bigram": 2.5}), call({"bigram": 2.5, "unigram": inf, "lost": nan})
    assert len(ax.lines) == len(plain.lines) and ax.get_ylim() == plain.get_ylim()
    heights = label_heights(ax)
    assert {"bigram", "unigram (infinite)", "lost (undefined)"} < set(heights)
    assert heights["unigram (infinite)"] > heights["bigram"] and color_of(ax, "unigram (infinite)") == GREY
    assert heights["bigram"] == pytest.approx(2.5, abs=0.1)


def test_a_line_that_ends_in_infinity_says_so_in_its_color():
    ax = plot.lines({"a": [1, 2, inf], "b": [3, 2, 1]})
    assert color_of(ax, "a (infinite)") == to_hex(plot.SERIES[0]) and label_heights(ax)["a (infinite)"] > 2
    assert label_heights(plot.lines({"a": [1, 1e-9, 0]}, log=True))["a"] < 1e-8, "0 lies below every log scale"


def test_a_loss_curve_stands_over_its_baselines():
    ax = plot.loss_curve(HISTORY, BASELINES, steps=100)
    heights = label_heights(ax)
    assert heights == pytest.approx({"training": 3.1, "validation": 3.0, **BASELINES}, abs=0.1)
    assert color_of(ax, "training") == to_hex(plot.TRAIN) and color_of(ax, "validation") == to_hex(plot.VAL)
    assert color_of(ax, "uniform") == color_of(ax, "counted bigram") == GREY
    lines = {(to_hex(line.get_color()), tuple(line.get_ydata())): line for line in ax.lines}
    assert {y for color, y in lines if color == GREY} == {(4.17, 4.17), (2.48, 2.48)}
    assert list(lines[to_hex(plot.TRAIN), tuple(HISTORY.train)].get_xdata()) == [0, 1, 2, 3]
    dots = lines[to_hex(plot.VAL), (4.17, 3.0)]
    assert list(dots.get_xdata()) == [0, 4] and dots.get_linestyle() == "None" and dots.get_marker() == "o"
    assert ax.get_xlim() == (0, 100) and ax.get_xlabel() == "step" and ax.get_ylabel() == "loss (nats per token)"
    assert plot.loss_curve(HISTORY).get_xlim() == (0, 4)


def test_a_loss_curve_before_the_first_step_and_without_validation():
    assert texts(plot.loss_curve(SimpleNamespace(train=[], val=[]))) == []
    assert texts(plot.loss_curve(SimpleNamespace(train=[], val=[(0, 4.0)]), steps=9)) == ["validation"]
    assert texts(plot.loss_curve(SimpleNamespace(train=[4.0], val=[]))) == ["training"]
    drawn(plt.gcf())


def test_the_smooth_loss_is_a_moving_average():
    train = random(200).tolist()
    smooth = next(
        line for line in plot.loss_curve(SimpleNamespace(train=train, val=[])).lines if len(line.get_ydata()) == 191
    )
    np.testing.assert_allclose(smooth.get_ydata()[7], np.mean(train[7:17]))
    assert smooth.get_xdata()[7] == pytest.approx(7 + 4.5), "in the middle of what it averages"


def test_losses_are_compared_the_first_on_top():
    losses = {"bigram": 2.5, "$GPT$ one": 1.8, "overflow": inf}
    ax = plot.compare_losses(losses, {"uniform": 4.17, "best n-gram": 1.52, "5-gram": 1.53, "unigram": inf})
    drawn(ax.figure)
    points = next(line for line in ax.lines if line.get_marker() == "o")
    assert list(points.get_xdata()) == [2.5, 1.8, inf] and list(points.get_ydata()) == [0, 1, 2]
    assert to_hex(points.get_color()) == to_hex(plot.VAL)
    assert ticks(ax.yaxis) == {0: "bigram  2.50", 1: "$GPT$ one  1.80", 2: "overflow  inf"} and ax.yaxis_inverted()
    assert ax.get_xlabel() == "validation loss (nats per token), lower is better"
    assert texts(ax) == ["unigram (infinite)"]

    (top,) = ax.child_axes
    assert {at: name.strip() for at, name in ticks(top.xaxis).items()} == {
        1.52: "best n-gram",
        1.53: "5-gram",
        4.17: "uniform",
    }
    grey = [line for line in ax.lines if line is not points]
    assert sorted(line.get_xdata()[0] for line in grey) == [1.52, 1.53, 4.17]
    assert all(list(line.get_ydata()) == [0, 1] and to_hex(line.get_color()) == GREY for line in grey), (
        "from edge to edge"
    )
    labels = top.get_xticklabels()
    assert {to_hex(label.get_color()) for label in labels} == {GREY} and {label.get_size() for label in labels} == {9}
    for tick in top.xaxis.get_major_ticks():
        name, line = tick.label2.get_window_extent(), ax.transData.transform((tick.get_loc(), 0))[0]
        assert abs(name.x0 - line) < 2, "beside its line, and two spaces away"
    levels = [label.get_text().count("\n") for label in labels]
    assert levels == [2, 1, 0], "each above those to its right, so that none lies on the line of another"


def test_a_title_keeps_clear_of_the_names_of_the_baselines():
    ax = plot.compare_losses({"a": 2.0}, {f"baseline {i}": 1 + i / 9 for i in range(6)})
    title = ax.set_title("A title")
    drawn(ax.figure)
    top = max(label.get_window_extent().y1 for label in ax.child_axes[0].get_xticklabels())
    assert top - 1 <= title.get_window_extent().y0 < top + 20
    assert ax.figure.bbox.y1 >= title.get_window_extent().y1


# --- bars and text ------------------------------------------------------------------------------------------------


def test_a_distribution_in_order_or_the_largest_first():
    probs = torch.tensor([0.1, 0.4, 0.2, 0.3, 0.0])
    ax = plot.distribution(probs, TOKENS)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], probs)
    assert ticks(ax.xaxis) == dict(enumerate(SHOWN)) and ax.get_ylabel() == "probability"
    assert [bar.get_x() + bar.get_width() / 2 for bar in ax.patches] == pytest.approx(range(5))
    assert {to_hex(bar.get_facecolor()) for bar in ax.patches} == {plot.BAR}
    ax = plot.distribution(probs, TOKENS, top=3, color="#123456")
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], [0.4, 0.3, 0.2])
    assert ticks(ax.xaxis) == {0: "o", 1: "⏎", 2: "␣"}
    assert {to_hex(bar.get_facecolor()) for bar in ax.patches} == {"#123456"}
    assert ticks(plot.distribution([0.5, 0.5, 0.7], range(3), top=9).xaxis) == {0: "2", 1: "0", 2: "1"}, "ties in order"


def test_histograms_share_their_bins_and_have_their_names_in_their_colors():
    series = {"$narrow$": random(50), "wide": 4 * random(2, 30, seed=1) - 2, **{f"s{i}": [0.0] for i in range(7)}}
    ax = plot.histograms(series, xlabel="score", bins=7)
    low, high = (
        min(v.min().item() for v in list(series.values())[:2]),
        max(v.max().item() for v in list(series.values())[:2]),
    )
    edges = np.linspace(low, high, 8)
    for patch, (name, values), color in zip(ax.patches, series.items(), itertools.cycle(plot.SERIES)):
        counts, _ = np.histogram(np.asarray(values, dtype=float).ravel(), edges)
        np.testing.assert_allclose(np.unique(patch.get_xy()[:, 0]), edges, atol=1e-5)
        np.testing.assert_allclose(
            sorted(set(patch.get_xy()[:, 1].round(4))),
            sorted({0, *(counts / counts.sum() / np.diff(edges)).round(4)}),
            atol=2e-4,
        )
        assert to_hex(patch.get_edgecolor()) == to_hex(color) == color_of(ax, name)
        assert to_hex(patch.get_facecolor()) == to_hex(color)
    assert len(ax.patches) == 9 and ax.get_xlabel() == "score" and ax.get_ylabel() == "density"
    assert texts(ax) == list(series)
    drawn(ax.figure)
    boxes = [text.get_window_extent() for text in ax.texts]
    assert all(upper.y0 >= lower.y1 - 2 for upper, lower in zip(boxes, boxes[1:])), "one below the other"


def test_a_passage_keeps_its_lines_and_breaks_those_that_are_too_long():
    tokens = ["To", " be", ",\n", "or", " not", " to", " be"]
    ax = plot.colored_text(tokens, torch.tensor([0, 0.5, 1, nan, 2, 3, inf]), width=9)
    rows = [[text for text in ax.texts if text.get_position()[1] == r] for r in range(3)]
    assert ["".join(text.get_text() for text in row) for row in rows] == ["To␣be,⏎", "or␣not␣to", "␣be"]
    assert [[text.get_position()[0] for text in row] for row in rows] == [
        [i + 0.5 for i in range(len(row))] for row in rows
    ]
    cells = ax.collections[0]
    assert [cell.get_extents().bounds for cell in cells.get_paths()] == [
        (0, -0.5, 2, 1), (2, -0.5, 3, 1), (5, -0.5, 2, 1), (0, 0.5, 2, 1), (2, 0.5, 4, 1), (6, 0.5, 3, 1),
        (0, 1.5, 3, 1),
    ]  # fmt: skip
    assert cells.get_clim() == (0, 1) and ax.get_xlim() == (0, 9) and ax.get_ylim() == (2.6, -0.6)
    drawn(ax.figure)
    faces = [to_hex(face, keep_alpha=True) for face in cells.get_facecolors()]
    scale = [to_hex(plot.PROBABILITY(v), keep_alpha=True) for v in (0.0, 0.5, 1.0, 1.0, 1.0, 1.0)]
    assert [*faces[:3], *faces[4:]] == scale and faces[3].endswith("00"), "NaN has no color"
    ink = [text.get_color() for text in ax.texts]
    assert ink == ["black"] * 5 + ["white"] * 2 + ["black"] * 2 + ["white"] * 10
    other = plot.colored_text(["a"], [3.0], cmap=plot.ATTENTION, limits=(2, 4)).collections[0]
    drawn()
    assert other.get_clim() == (2, 4) and to_hex(other.get_facecolors()[0]) == to_hex(plot.ATTENTION(0.5))


def test_wide_characters_take_two_cells(monkeypatch):
    ax = plot.colored_text(["a", "你b", "c"], [0.0, 0.5, 1.0])
    assert [text.get_position()[0] for text in ax.texts] == [0.5, 2, 3.5, 4.5] or "□" in texts(ax)
    monkeypatch.setattr(plot, "_as_text", lambda names, family: (list(names), {}))  # as if a font had it
    ax = plot.colored_text(["a", "你b", "c"], [0.0, 0.5, 1.0])
    assert [text.get_position()[0] for text in ax.texts] == [0.5, 2, 3.5, 4.5]
    assert [cell.get_extents().bounds[::2] for cell in ax.collections[0].get_paths()] == [(0, 1), (1, 3), (4, 1)]


# --- on the page --------------------------------------------------------------------------------------------------


def test_a_picture_is_a_png_with_its_alternative_text():
    figure = NAMED["attention"](TOKENS).figure
    data, metadata = plot.Picture(figure, "Row 3 looks back.")._repr_mimebundle_()
    png = plt.imread(io.BytesIO(base64.b64decode(data["image/png"])), format="png")
    assert png.ndim == 3 and png.std() > 0 and (png[0, 0] == 1).all(), "a white ground, on a dark page too"
    assert data["text/plain"] == "Row 3 looks back." and metadata["image/png"]["alt"] == "Row 3 looks back."
    width, height = (metadata["image/png"][side] for side in ("width", "height"))
    assert (width, height) == tuple(np.round(100 * figure.get_size_inches()))
    assert png.shape[:2] == pytest.approx((1.5 * height, 1.5 * width), abs=2), "more pixels than it is wide on the page"


def test_a_title_with_a_character_that_no_font_has_is_no_warning_on_the_page(recwarn):
    plot.Picture(NAMED["matrix"](["a"]).set_title("after 你 \U0001fae8 \ue000").figure, "")
    assert not recwarn.list


def test_the_same_picture_is_the_same_bytes():
    one, other = (plot.Picture(NAMED["loss_curve"](["a", "b"]).figure, "") for _ in range(2))
    assert one.png == other.png
    assert b"matplotlib" not in base64.b64decode(one.png).lower(), "no version that would differ elsewhere"


def test_show_puts_the_current_figure_on_the_page_and_closes_it(monkeypatch):
    shown = []
    pytest.importorskip("IPython")
    monkeypatch.setattr(sys.modules["IPython"].display, "display", shown.append)
    NAMED["attention"](TOKENS)
    assert plot.show("Row 3 looks back.") is None
    assert [picture.alt for picture in shown] == ["Row 3 looks back."]
    assert plt.get_fignums() == []
