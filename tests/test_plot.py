"""Pictures: every function draws where it is told, names its cells and axes, and neither shows nor saves."""

import base64
import inspect
import io
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from gptlib import plot
from gptlib.attention import attention_weights
from gptlib.checkpoint import History

TOKENS = ["T", "o", " ", "\n", "b"]
SHOWN = ["T", "o", "␣", "⏎", "b"]
WEIGHTS = attention_weights(torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 5, 4) + 1)
TABLE = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
HISTORY = History(train=[4.2, 4.0, 3.5, 3.1], val=[(0, 4.17), (4, 3.0)])
BASELINES = {"uniform": 4.17, "counted bigram": 2.48}

# Each function that can draw into axes of one's own.
DRAW = {
    "matrix": lambda ax: plot.matrix(TABLE - 0.5, TOKENS, TOKENS, ax=ax),
    "attention": lambda ax: plot.attention(WEIGHTS[0], TOKENS, ax=ax),
    "table": lambda ax: plot.table(TABLE, TOKENS, ax=ax),
    "lines": lambda ax: plot.lines({"a": [1, 2, 4], "b": torch.ones(3)}, baselines=BASELINES, ax=ax),
    "lines, log": lambda ax: plot.lines({"a": [1, 10, 100]}, [0, 5, 10], log=True, xlabel="depth", ax=ax),
    "loss_curve": lambda ax: plot.loss_curve(HISTORY, BASELINES, ax=ax),
    "loss_curve, empty": lambda ax: plot.loss_curve(History(), ax=ax),
    "ladder": lambda ax: plot.ladder({"bigram": 2.5, "GPT": 1.8}, BASELINES, ax=ax),
    "distribution": lambda ax: plot.distribution(TABLE[0], TOKENS, ax=ax),
    "histograms": lambda ax: plot.histograms({"scores": TABLE, "scaled": TABLE / 2}, xlabel="score", ax=ax),
    "points": lambda ax: plot.points(TABLE[:, :2], TOKENS, ax=ax),
    "triangle": lambda ax: plot.triangle(TOKENS, ax=ax),
    "text": lambda ax: plot.text(TOKENS, TABLE[0], ax=ax),
}


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No figure from before, none left behind, and nothing shown or saved by itself."""
    plt.close("all")
    for name in ("show", "savefig"):
        monkeypatch.setattr(plt, name, lambda *args, name=name, **options: pytest.fail(f"plt.{name} was called"))
    yield
    plt.close("all")


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def ink(ax):
    """How many different colours the drawn picture has: a blank one has one."""
    ax.figure.canvas.draw()
    return len(np.unique(np.asarray(ax.figure.canvas.buffer_rgba()).reshape(-1, 4), axis=0))


def test_every_function_that_takes_axes_is_drawn_here():
    takes = {n for n, f in vars(plot).items() if inspect.isfunction(f) and "ax" in inspect.signature(f).parameters}
    assert takes - {"label_ends"} == {name.split(",")[0] for name in DRAW}


@pytest.mark.parametrize("name", DRAW)
def test_into_a_new_figure(name):
    settings = dict(plt.rcParams)
    ax = DRAW[name](None)
    assert isinstance(ax, Axes) and plt.get_fignums() == [ax.figure.number]
    assert dict(plt.rcParams) == settings, "no global style"
    assert ink(ax) > 2
    assert name in ("matrix", "points", "lines", "text") or ax.get_xlabel() or ax.get_ylabel()


@pytest.mark.parametrize("name", DRAW)
def test_into_given_axes(name):
    figure, (left, right) = plt.subplots(1, 2)
    assert DRAW[name](right) is right
    assert plt.get_fignums() == [figure.number] and len(figure.axes) == 2
    assert not left.has_data() and not left.texts


@pytest.mark.parametrize("name", "matrix attention table lines distribution histograms points text".split())
def test_tensors_that_still_learn(name, monkeypatch):
    monkeypatch.setitem(globals(), "TABLE", TABLE.clone().requires_grad_())
    monkeypatch.setitem(globals(), "WEIGHTS", WEIGHTS.clone().requires_grad_())
    assert isinstance(DRAW[name](None), Axes)


def test_spaces_and_newlines_can_be_seen():
    for name in ("attention", "table"):
        ax = DRAW[name](None)
        assert ticks(ax.xaxis) == ticks(ax.yaxis) == SHOWN, name
    assert ticks(DRAW["distribution"](None).xaxis) == SHOWN
    assert texts(DRAW["points"](None)) == texts(DRAW["text"](None)) == SHOWN
    assert set(texts(DRAW["triangle"](None))) == set(SHOWN)
    assert plot.visible("a\tb c\n") == "a⇥b␣c⏎"


def test_as_many_names_as_cells():
    with pytest.raises(ValueError, match="4 names for 5 cells: give one name for each row and column"):
        plot.attention(WEIGHTS[0], TOKENS[:4])


# --- attention ----------------------------------------------------------------------------------------------------


def test_attention_is_on_a_fixed_scale_and_the_future_is_blank():
    (image,) = plot.attention(WEIGHTS[0] / 10, TOKENS).images
    assert image.get_clim() == (0, 1)
    cells = image.get_array()
    assert (np.ma.getmaskarray(cells) == np.triu(np.ones((5, 5), dtype=bool), 1)).all()
    np.testing.assert_allclose(cells.compressed(), (WEIGHTS[0] / 10)[torch.ones(5, 5).tril().bool()])
    assert plot.ATTENTION(0.0)[:3] == (1, 1, 1), "nothing is white"


def test_attention_that_looks_ahead_has_no_blank_cell():
    (image,) = plot.attention(torch.full((5, 5), 0.2), TOKENS).images
    assert not np.ma.getmaskarray(image.get_array()).any()


def test_darker_means_more_also_in_grey():
    for colours in (plot.ATTENTION, plot.PROBABILITY):
        grey = colours(np.linspace(0, 1, 50))[:, :3] @ [0.299, 0.587, 0.114]
        assert (np.diff(grey) < 0).all()


def test_few_cells_carry_their_numbers_and_many_do_not():
    assert len(texts(plot.attention(WEIGHTS[0], TOKENS))) == 15, "none in a blank cell"
    assert texts(plot.attention(WEIGHTS[0], TOKENS))[0] == "1.00"
    assert texts(plot.attention(WEIGHTS[0], TOKENS, numbers=False)) == []
    assert texts(plot.attention(torch.ones(11, 11), "abcdefghijk")) == []
    assert len(texts(plot.attention(torch.ones(11, 11), "abcdefghijk", numbers=True))) == 121


@pytest.mark.parametrize("H", [1, 2, 4, 6])
def test_a_panel_for_each_head(H):
    axes = plot.heads(WEIGHTS[:1].expand(H, 5, 5), TOKENS)
    assert axes.shape == (H,) and all(isinstance(ax, Axes) for ax in axes)
    assert [ax.get_title() for ax in axes] == [f"head {h}" for h in range(H)]
    assert {ax.images[0].get_clim() for ax in axes} == {(0, 1)}
    assert sum(ax.get_visible() for ax in axes[0].figure.axes) == H
    assert ticks(axes[0].yaxis) == SHOWN and ticks(axes[-1].xaxis) == SHOWN
    assert plt.get_fignums() == [axes[0].figure.number]


def test_a_panel_for_each_head_of_each_layer():
    axes = plot.layers([WEIGHTS, WEIGHTS.flip(0), WEIGHTS], TOKENS)
    assert axes.shape == (3, 2)
    for layer in range(3):
        for h in range(2):
            cells = axes[layer, h].images[0].get_array()
            np.testing.assert_allclose(cells.filled(0), WEIGHTS[1 - h if layer == 1 else h])
    assert [ax.get_title() for ax in axes[0]] == ["head 0", "head 1"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["layer 0", "layer 1", "layer 2"]
    assert {ax.images[0].get_clim() for ax in axes.flat} == {(0, 1)}


# --- other matrices -----------------------------------------------------------------------------------------------


def test_a_signed_matrix_has_white_at_zero_and_infinite_cells_blank():
    (image,) = plot.matrix([[1.0, -3.0], [float("-inf"), 2.0]]).images
    assert image.get_clim() == (-3, 3)
    np.testing.assert_allclose(plot.SIGNED(0.5)[:3], 1, atol=0.01)
    assert np.ma.getmaskarray(image.get_array()).tolist() == [[False, False], [True, False]]


def test_a_table_runs_to_its_largest_probability():
    (image,) = plot.table(TABLE, TOKENS).images
    assert image.get_clim() == (0, pytest.approx(TABLE.max().item()))
    np.testing.assert_allclose(image.get_array(), TABLE)


# --- curves and bars ----------------------------------------------------------------------------------------------


def test_a_loss_curve_stands_over_its_baselines():
    ax = plot.loss_curve(HISTORY, BASELINES, steps=100)
    assert set(texts(ax)) == {"training", "validation", *BASELINES}
    lines = {tuple(line.get_ydata()) for line in ax.lines}
    assert {(4.17, 4.17), (2.48, 2.48), tuple(HISTORY.train), (4.17, 3.0)} <= lines
    assert ax.get_xlim() == (0, 100) and ax.get_ylabel() == "loss (nats a token)"


def test_the_smooth_loss_is_a_moving_average():
    train = torch.rand(200, generator=torch.Generator().manual_seed(0)).tolist()
    smooth = next(line for line in plot.loss_curve(History(train)).lines if len(line.get_ydata()) == 191)
    np.testing.assert_allclose(smooth.get_ydata()[7], np.mean(train[7:17]))
    assert smooth.get_xdata()[7] == pytest.approx(7 + 4.5), "in the middle of what it averages"


def test_names_at_the_ends_do_not_overlap():
    ax = plot.lines({"a": [0, 1.0], "b": [0, 1.001], "c": [0, 1.002]}, baselines={"d": 1.0, "e": 0.0})
    ax.figure.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
    assert len(boxes) == 5
    for lower, upper in zip(boxes, boxes[1:]):
        assert upper.y0 >= lower.y1 - 2


def test_a_ladder_has_a_point_for_each_loss_the_first_on_top():
    ax = plot.ladder({"bigram": 2.5, "GPT": 1.8}, BASELINES)
    assert list(ax.lines[0].get_xdata()) == [2.5, 1.8] and ticks(ax.yaxis) == ["bigram", "GPT"]
    assert ax.yaxis_inverted()
    assert {"2.50", "1.80", *BASELINES} == set(texts(ax))


def test_a_distribution_in_order_or_the_largest_first():
    probabilities = torch.tensor([0.1, 0.4, 0.2, 0.3, 0.0])
    ax = plot.distribution(probabilities, TOKENS)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], probabilities)
    ax = plot.distribution(probabilities, TOKENS, top=3)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], [0.4, 0.3, 0.2])
    assert ticks(ax.xaxis) == ["o", "⏎", "␣"]


def test_the_triangle_has_a_lesson_in_each_row():
    ax = plot.triangle(list("To be"))
    assert len(ax.texts) == 2 + 3 + 4 + 5
    rows = [[text for text in ax.texts if text.get_position()[1] == t] for t in range(4)]
    assert ["".join(text.get_text() for text in row) for row in rows] == ["To", "To␣", "To␣b", "To␣be"]
    assert ticks(ax.yaxis) == ["lesson 0", "lesson 1", "lesson 2", "lesson 3"]


def test_a_passage_keeps_its_lines_and_breaks_those_that_are_too_long():
    ax = plot.text(
        ["To", " be", ",\n", "or", " not", " to", " be"], torch.tensor([0, 0.5, 1, torch.nan, 2, 3, 4]), width=9
    )
    rows = [[text for text in ax.texts if text.get_position()[1] == r] for r in range(3)]
    assert ["".join(text.get_text() for text in row) for row in rows] == ["To␣be,⏎", "or␣not␣to", "␣be"]
    cells = ax.collections[0]
    assert [cell.get_extents().bounds for cell in cells.get_paths()] == [
        (0, -0.5, 2, 1), (2, -0.5, 3, 1), (5, -0.5, 2, 1), (0, 0.5, 2, 1), (2, 0.5, 4, 1), (6, 0.5, 3, 1),
        (0, 1.5, 3, 1),
    ]  # fmt: skip
    assert cells.get_clim() == (0, 1) and cells.get_array().mask.tolist() == [False] * 3 + [True] + [False] * 3
    colours = {text.get_text(): text.get_color() for text in ax.texts}
    assert colours["T"] == "black" and colours["⏎"] == "white" and colours["r"] == "black"
    with pytest.raises(ValueError, match="2 tokens and 3 values: give one value for each token"):
        plot.text(["To", " be"], torch.zeros(3))


# --- on the page --------------------------------------------------------------------------------------------------


def test_a_picture_is_a_png_with_its_alternative_text():
    picture = plot.Picture(DRAW["attention"](None).figure, "Row 3 looks back.")
    data, metadata = picture._repr_mimebundle_()
    png = plt.imread(io.BytesIO(base64.b64decode(data["image/png"])), format="png")
    assert png.ndim == 3 and min(png.shape[:2]) > 100 and png.std() > 0
    assert (png[0, 0] == 1).all(), "a white ground, in a dark page too"
    assert data["text/plain"] == "Row 3 looks back." and metadata == {"image/png": {"alt": "Row 3 looks back."}}


def test_the_same_picture_is_the_same_bytes():
    one, other = (plot.Picture(DRAW["loss_curve"](None).figure, "") for _ in range(2))
    assert one.png == other.png
    assert b"matplotlib" not in base64.b64decode(one.png).lower(), "no version that would differ elsewhere"


def test_show_puts_the_current_figure_on_the_page_and_closes_it(monkeypatch):
    shown = []
    pytest.importorskip("IPython")
    monkeypatch.setattr(sys.modules["IPython"].display, "display", shown.append)
    DRAW["attention"](None)
    assert plot.show("Row 3 looks back.") is None
    assert [picture.alt for picture in shown] == ["Row 3 looks back."]
    assert plt.get_fignums() == []
