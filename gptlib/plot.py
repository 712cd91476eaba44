"""Pictures: tensors in, matplotlib Axes out. Nothing here saves a file, sets a style or knows a model.

Every function draws into `ax`, or into a new figure when `ax` is None, and returns the Axes so that a title can be set.
In a notebook, `show(alt)` ends the cell: it puts the picture on the page with a text for readers who cannot see it.
R rows · N columns, or numbers · T tokens · H heads · L layers
"""

import base64
import io
import math
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font, get_font_names
from matplotlib.patheffects import withStroke

# One palette for the whole course, of colors that color-blind readers can tell apart (Okabe & Ito; Paul Tol).
# The colors of query, key and value mean nothing else anywhere.
QUERY, KEY, VALUE = "#0072B2", "#D55E00", "#009E73"
TRAIN, VAL, BASELINE, MASKED, BAR = "#E69F00", "#882255", "#767676", "#d9d9d9", "#5aae9b"
SERIES = ["#332288", "#CC6677", "#999933", "#56B4E9", "#AA4499", "#6B4423", "#000000"]
ATTENTION = LinearSegmentedColormap.from_list("attention", ["#ffffff", "#9d85c9", "#2d1160"])
PROBABILITY = LinearSegmentedColormap.from_list("probability", ["#ffffff", BAR, "#00332c"])
SIGNED = LinearSegmentedColormap.from_list("signed", ["#8c3a00", "#ffffff", "#00486e"])
LUMINANCE = (0.299, 0.587, 0.114)  # how bright red, green and blue look
FONTS = "Noto Sans CJK SC,Noto Sans CJK JP,PingFang SC,Microsoft YaHei,Arial Unicode MS,Noto Emoji".split(",")
Names = Sequence[object] | None
Losses = Mapping[str, float] | None


def visible(token: str) -> str:
    r"""`token` with its spaces, newlines and other characters that leave no mark made visible.

    >>> print(visible("a b\n"), visible("\r\0"))
    a␣b⏎ \r\x00
    """
    signs = {" ": "␣", "\n": "⏎", "\t": "⇥"}
    return "".join(signs.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode()) for c in token)


def _as_text(names: Iterable[object], family: str = "sans-serif") -> tuple[list[str], dict[str, Any]]:
    """Names as a picture shows them, with the properties of their text: `$` starts no formula, □ is a missing glyph."""
    families = [family, "sans-serif", *(name for name in FONTS if name in get_font_names())]
    fonts = [get_font(findfont(FontProperties(family=[name]))) for name in families]
    shown = ["".join(c if c in " \n" else visible(c) for c in str(name)) for name in names]
    known = {c for c in set().union(*shown) if c == "\n" or any(font.get_char_index(ord(c)) for font in fonts)}
    written = ["".join(c if c in known else "□" for c in name) for name in shown]
    return written, {"parse_math": False, "family": families}


def _name_ticks(axis: Axis, names: Names, count: int) -> None:
    """Write `names` at the ticks 0 to `count` - 1, or as many of them as fit at 8 points."""
    if names is not None:
        (written, options), box, across = _as_text(names), axis.axes.bbox, isinstance(axis, XAxis)
        cell = (box.width if across else box.height) * 72 / axis.axes.figure.dpi / count  # in points
        room = 1.2 * cell  # the layout is still to come, and may give this much more
        size, longest, step = 10 if cell >= 10 else 8, max(map(len, written)), math.ceil(8 / room)
        turn = 90 if across and longest > 1 and longest * 0.6 * size > 0.8 * cell else 0
        axis.set_tick_params(length=0)
        axis.set_ticks(range(0, count, step), written[::step], size=size, rotation=turn, **options)


def _tensor(values: Any, shape: str, *names: Names, finite: bool = False) -> torch.Tensor:
    """`values` as float64 on the CPU; a ValueError unless they have `shape`, are not empty, and fit the `names`."""
    values = torch.as_tensor(values).detach().cpu().double()  # in this order: Apple's GPU has no float64
    if values.ndim != len(shape.split()) or not values.numel():
        raise ValueError(f"expected numbers of the shape ({shape}), not {tuple(values.shape)}")
    for axis, count, given in zip(shape.split(", "), values.shape, names):
        if given is not None and len(given) != count:
            raise ValueError(f"{len(given)} names for {axis} = {count}: give one name for each")
    if finite and not values.isfinite().all():
        raise ValueError("these numbers must be finite: leave out those that are infinite or NaN")
    return values


def _axes(ax: Axes | None, width: float, height: float, frame: bool = False) -> Axes:
    """`ax`, or the Axes of a new figure; without `frame`, only the left and the lower edge are drawn."""
    if ax is None:
        _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.spines[["top", "right"]].set_visible(frame)
    return ax


class Picture:
    """A figure as a PNG with its alternative text: what a notebook shows, stores and reads aloud."""

    def __init__(self, figure: Figure, alt: str):
        buffer = io.BytesIO()
        with warnings.catch_warnings():  # a title may hold a character that no font has
            warnings.filterwarnings("ignore", "Glyph")
            figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
        self.png, self.alt = base64.b64encode(buffer.getvalue()).decode(), alt
        self.size = {"width": round(100 * figure.get_figwidth()), "height": round(100 * figure.get_figheight())}

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, str], dict[str, Any]]:
        return {"image/png": self.png, "text/plain": self.alt}, {"image/png": {"alt": self.alt, **self.size}}


def show(alt: str) -> None:
    """Show the current figure in the notebook, with `alt` saying what there is to see; then close it."""
    from IPython.display import display

    display(Picture(plt.gcf(), alt))
    plt.close()


def matrix(
    values, rows: Names = None, columns: Names = None, *, cmap=SIGNED, limits=None, blank=None, numbers=None, ax=None
) -> Axes:
    """A matrix (R, N) as colored cells, with its numbers written in when there are at most 100 (or as `numbers` says).

    `rows` and `columns` are the names at the ticks. Cells where `blank` (R, N) is true, and cells that are not finite,
    are light grey. Without `limits` the colors run from -m to m for the largest absolute value m: white is zero.
    """
    values = _tensor(values, "R, N", rows, columns)
    (R, N), hidden = values.shape, ~values.isfinite()
    if blank is not None:
        hidden = hidden | torch.as_tensor(blank).cpu()
    ax = _axes(ax, min(1.6 + 0.36 * N, 11), min(1.2 + 0.36 * R, 10), frame=True)
    largest = 1.0 if hidden.all() else values[~hidden].abs().max().item() or 1.0
    low, high = limits or (-largest, largest)
    colors = plt.get_cmap(cmap).with_extremes(bad=MASKED)
    image = ax.imshow(np.ma.masked_array(values, hidden), cmap=colors, vmin=low, vmax=high, aspect="equal")
    _name_ticks(ax.xaxis, columns, N)
    _name_ticks(ax.yaxis, rows, R)
    if numbers if numbers is not None else values.numel() <= 100:
        dark = image.to_rgba(values.numpy())[..., :3] @ LUMINANCE < 0.5
        for r, n in (~hidden).nonzero().tolist():
            ink = "white" if dark[r, n] else "black"
            ax.text(n, r, f"{values[r, n]:.2f}", ha="center", va="center", color=ink, size=8)
    return ax


def attention(weights: Any, tokens: Sequence[str], columns: Sequence[str] | None = None, *, numbers=None, ax=None):
    """One attention map: weights (T, T), or (T, S) with key positions named by `columns`; 0 is white, 1 is dark.

    Without `columns`, if no position attends to a later one, the cells above the diagonal count as masked: light grey.
    """
    later = torch.ones_like(weights := _tensor(weights, f"T, {'S' if columns else 'T'}"), dtype=torch.bool).triu(1)
    blank = later if not (columns or weights[later].any()) else None
    names, keys = ([visible(token) for token in side] for side in (tokens, columns or tokens))
    panel = matrix(weights, names, keys, cmap=ATTENTION, limits=(0, 1), blank=blank, numbers=numbers, ax=ax)
    panel.set(xlabel="key position", ylabel="query position")
    if ax is None:
        panel.figure.colorbar(panel.images[0], shrink=0.5, label="attention weight", ticks=[0, 0.5, 1])
    return panel


def heads(weights: Any, tokens: Sequence[str], columns: int = 4) -> np.ndarray:
    """One panel per head: weights (H, T, T), all on the scale from 0 to 1 -> an array (H,) of Axes."""
    H = len(weights := _tensor(weights, "H, T, T"))
    rows, columns = -(-H // min(columns, H)), min(columns, H)
    size = (2.6 * columns + 1.2, 2.6 * rows + 0.5)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for h, ax in enumerate(axes.flat):
        ax.set_visible(h < H)
        if h < H:
            attention(weights[h], tokens, numbers=False, ax=ax).set(xlabel="", ylabel="", title=f"head {h}")
            ax.tick_params(labelsize=8, labelleft=h % columns == 0, labelbottom=h + columns >= H)
    figure.supxlabel("key position", size=10)
    figure.supylabel("query position", size=10)
    figure.colorbar(axes[0, 0].images[0], ax=axes, shrink=0.5, label="attention weight", ticks=[0, 0.5, 1])
    return axes.ravel()[:H]


def layers(maps: Sequence[torch.Tensor], tokens: Sequence[str]) -> np.ndarray:
    """Every head of every layer: L tensors (H, T, T), all on the scale from 0 to 1 -> an array (L, H) of Axes."""
    if len({weights.shape for weights in maps}) != 1:
        raise ValueError("expected one tensor (H, T, T) per layer, all of the same shape")
    stacked = _tensor(torch.stack(list(maps)), "L, H, T, T")
    axes = heads(stacked.flatten(0, 1), tokens, columns=stacked.shape[1]).reshape(stacked.shape[:2])
    for (layer, h), ax in np.ndenumerate(axes):
        ax.set(ylabel=f"layer {layer}" if h == 0 else "", title=f"head {h}" if layer == 0 else "")
    return axes


def dodge(positions: Sequence[float], gap: float, low: float = -math.inf) -> np.ndarray:
    """`positions`, in rising order, moved as little as leaves `gap` between neighbors and none below `low`.

    >>> dodge([0, 0, 5], gap=1).tolist()
    [-0.5, 0.5, 5.0]
    """
    n, apart = len(positions), gap * np.arange(len(positions))
    free = np.asarray(positions) - apart  # these only have to rise: isotonic regression, by its min-max formula
    fit = [max(min(free[j:k].mean() for k in range(i + 1, n + 1)) for j in range(i + 1)) for i in range(n)]
    return np.maximum(fit, low) + apart


def label_ends(ax: Axes, ends: Mapping[str, float], colors: Mapping[str, str] | None = None) -> None:
    """Write each name at the right edge, at the height where its line ends; names that would overlap move apart.

    A value that is not finite has no height: its name stands at the edge and says so.
    """
    ax.autoscale_view()  # matplotlib would put this off until it draws, and the heights would be the old ones
    labels = []
    for name, y in ends.items():
        note = "" if math.isfinite(y) else " (undefined)" if math.isnan(y) else " (infinite)"
        inside = not note and (y > 0 or ax.get_yscale() != "log")
        at, unit, place = (y, "data", ax.transData) if inside else (int(y > 0), "axes fraction", ax.transAxes)
        labels.append((place.transform((0, at))[1] * 72 / ax.figure.dpi, at, unit, name, note))
    labels.sort(key=lambda label: label[0])
    written, options = _as_text(name + note for *_, name, note in labels)
    options.update(va="center", size=9, annotation_clip=False)
    moved = dodge([height for height, *_ in labels], gap=13, low=ax.bbox.y0 * 72 / ax.figure.dpi + 4)
    for (height, at, unit, name, _), text, target in zip(labels, written, moved):
        color, units = (colors or {}).get(name, BASELINE), ("axes fraction", unit)
        ax.annotate(text, (1.01, at), (0, target - height), units, "offset points", color=color, **options)


def _baselines(baselines: Losses, draw: Any) -> dict[str, float]:
    """A thin grey line at each finite baseline, drawn by `draw` -> all of them, to be named."""
    for y in filter(math.isfinite, (baselines or {}).values()):
        draw(y, color=BASELINE, lw=0.8, zorder=0)
    return dict(baselines or {})


def lines(
    series: Mapping, x=None, *, xlabel="", ylabel="", log=False, baselines: Losses = None, colors=SERIES, ax=None
) -> Axes:
    """One line for each of `series`, named at its end; `baselines` are thin grey lines across. `log` scales y."""
    values = {name: _tensor(y, "N").numpy() for name, y in series.items()}
    if not values:
        raise ValueError("there are no lines to draw: series is empty")
    ax = _axes(ax, 7, 4)
    ends, color_of = _baselines(baselines, ax.axhline), dict(zip(values, cycle(colors)))
    for name, y in values.items():
        at, marker = range(len(y)) if x is None else _tensor(x, "N"), "o" if len(y) <= 16 else None
        ax.plot(at, y, color=color_of[name], marker=marker, ms=4)
        ends[name] = y[-1]
    ax.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else ax.get_yscale())
    label_ends(ax, ends, color_of)
    return ax


def loss_curve(history: Any, baselines: Losses = None, *, steps: int | None = None, ax: Axes | None = None) -> Axes:
    """Training loss by step with its moving average, and validation loss as dots, in nats per token.

    `history` has `train`, one loss per step, and `val`, pairs (steps done, loss). `steps` fixes the picture's width.
    """
    ax = _axes(ax, 7, 4)
    ends = _baselines(baselines, ax.axhline)
    if history.train:
        width = max(1, min(50, len(history.train) // 20))
        smooth = np.convolve(history.train, np.ones(width) / width, mode="valid")
        ax.plot(history.train, color=TRAIN, alpha=0.25, lw=0.8)
        ax.plot(np.arange(len(smooth)) + (width - 1) / 2, smooth, color=TRAIN)
        ends["training"] = smooth[-1]
    if history.val:  # not joined: a straight line between two far dots would look like losses that were measured
        ax.plot(*zip(*history.val), "o", color=VAL, ms=4, clip_on=False)
        ends["validation"] = history.val[-1][1]
    ax.set(xlabel="step", ylabel="loss (nats per token)", xlim=(0, steps or max(len(history.train), 1)))
    label_ends(ax, ends, {"training": TRAIN, "validation": VAL})
    return ax


def compare_losses(losses: Mapping[str, float], baselines: Losses = None, *, ax: Axes | None = None) -> Axes:
    """One point per model, the first on top, its loss beside its name; `baselines` are thin grey lines, named above."""
    if not losses:
        raise ValueError("there are no losses to compare: losses is empty")
    ax = _axes(ax, 7, 1.6 + 0.4 * len(losses) + 0.15 * len(baselines or {}))
    ax.plot(list(losses.values()), range(len(losses)), "o", color=VAL, ms=8)
    written, options = _as_text(f"{name}  {loss:.2f}" for name, loss in losses.items())
    ax.set_yticks(range(len(losses)), written, **options)
    ax.set(xlabel="validation loss (nats per token), lower is better", ylim=(len(losses) - 0.4, -0.6))
    ax.margins(x=0.12)
    found = _baselines(baselines, ax.axvline)
    written, options = _as_text(f"{name} (infinite)" for name, y in found.items() if math.isinf(y))
    ax.annotate("\n".join(written), (1.01, 0), xycoords="axes fraction", size=9, color=BASELINE, **options)
    names = sorted((name for name, y in found.items() if math.isfinite(y)), key=lambda name: found[name])
    written, options = _as_text(names)
    # Each name is a flag on its line, above the flags to its right, whose lines end below it.
    top = ax.secondary_xaxis("top")  # an axis, so that a title keeps clear of its labels
    top.spines.top.set_visible(False)
    top.tick_params(length=0, pad=2, labelsize=9, labelcolor=BASELINE)
    flags = ["  " + name + "\n" * level for level, name in enumerate(reversed(written))][::-1]
    top.set_ticks([found[name] for name in names], flags, ha="left", linespacing=1.2, **options)
    for level, tick in enumerate(reversed(top.xaxis.get_major_ticks())):
        tick.tick2line.set(markersize=10 + 10.8 * level, markeredgecolor=BASELINE, markeredgewidth=0.8)
    return ax


def distribution(probs, names: Sequence, *, top: int | None = None, color: str = BAR, ax: Axes | None = None) -> Axes:
    """A bar for each probability (N,), in the order given, or the `top` largest, largest first."""
    probs = _tensor(probs, "N", names, finite=True)
    order = probs.argsort(descending=True, stable=True)[:top] if top else torch.arange(len(probs))
    ax = _axes(ax, min(max(1.2 + 0.3 * len(order), 5), 10), 2.6)
    ax.bar(range(len(order)), probs[order].numpy(), color=color)
    _name_ticks(ax.xaxis, [visible(str(names[i])) for i in order.tolist()], len(order))
    ax.set_ylabel("probability")
    return ax


def histograms(series: Mapping, *, xlabel: str = "", bins: int = 60, ax: Axes | None = None) -> Axes:
    """How often each value occurs: one outline for each of `series`, with its name in its color, over one range."""
    values = {name: _tensor(torch.as_tensor(v).flatten(), "N", finite=True).numpy() for name, v in series.items()}
    if not values:
        raise ValueError("there are no histograms to draw: series is empty")
    ax = _axes(ax, 7, 3.2)
    span = (min(v.min() for v in values.values()), max(v.max() for v in values.values()))
    written, options = _as_text(values)
    for n, (v, name, color) in enumerate(zip(values.values(), written, cycle(SERIES))):
        fill: Any = {"histtype": "stepfilled", "facecolor": to_rgba(color, 0.3), "edgecolor": color}
        ax.hist(v, bins=bins, range=span, density=True, **fill)
        options.update(ha="right", va="top", size=9, path_effects=[withStroke(linewidth=3, foreground="white")])
        ax.annotate(name, (1, 1), (0, -13 * n), "axes fraction", "offset points", color=color, **options)
    ax.set(xlabel=xlabel, ylabel="density")
    return ax


def colored_text(
    tokens: Sequence[str], values: Any, *, cmap: Any = PROBABILITY, limits=(0.0, 1.0), width: int = 60, ax=None
) -> Axes:
    """A passage in which each token stands on the color of its value (T,); NaN stays white.

    A line ends after a newline and before it passes `width` characters. `ax.collections[0]` is for a color bar.
    """
    values = _tensor(values, "T", tokens)
    shown, options = _as_text(map(visible, tokens), "monospace")
    boxes, letters, row, column = [], [], 0, 0
    for n, token in enumerate(shown):
        cells = [1 + (unicodedata.east_asian_width(c) in "WF") for c in token]  # Chinese letters are twice as wide
        if column and column + sum(cells) > width:
            row, column = row + 1, 0
        boxes.append(plt.Rectangle((column, row - 0.5), sum(cells), 1))
        for letter, cell in zip(token, cells):
            letters.append((column + cell / 2, row, letter, n))
            column += cell
        row, column = (row + 1, 0) if tokens[n].endswith("\n") else (row, column)
    last = boxes[-1].get_y() + 0.5
    ax = _axes(ax, 0.115 * width + 0.2, 0.24 * (last + 1) + 0.3)
    patches = PatchCollection(boxes, cmap=cmap, clim=limits, linewidths=0)
    patches.set_array(values.clamp(*limits).numpy())  # matplotlib would leave infinite ones out
    ax.add_collection(patches)
    dark = (patches.to_rgba(values.numpy())[:, :3] @ LUMINANCE < 0.5) & ~values.isnan().numpy()
    for x, y, letter, n in letters:
        ax.text(x, y, letter, ha="center", va="center", size=9, color="white" if dark[n] else "black", **options)
    ax.set(xlim=(0, width), ylim=(last + 0.6, -0.6))
    ax.axis("off")
    return ax
