"""Pictures: tensors in, matplotlib Axes out. Nothing here shows, saves or knows a model.

Every function draws into `ax`, or into a new figure when there is none, and returns the Axes for more to be done.
In a notebook, `show(alt)` ends the cell: it puts the picture on the page with a text for those who cannot see it.
"""

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

from gptlib.explorer import Explorer, stack

# One palette for the whole course, from colours that colour-blind readers can tell apart (Okabe & Ito; Paul Tol).
QUERY, KEY, VALUE = "#0072B2", "#D55E00", "#009E73"
TRAIN, VAL, BASELINE = "#E69F00", "#882255", "#808080"
SERIES = ["#332288", "#CC6677", "#999933", "#56B4E9", "#882255", "#DDCC77", "#000000"]
ATTENTION = LinearSegmentedColormap.from_list("attention", ["#ffffff", "#9d85c9", "#2d1160"])
PROBABILITY = LinearSegmentedColormap.from_list("probability", ["#ffffff", "#5aae9b", "#00332c"])
SIGNED = LinearSegmentedColormap.from_list("signed", ["#8c3a00", "#ffffff", "#00486e"])


def visible(token: str) -> str:
    """`token` with its spaces and newlines made visible.

    >>> visible("a b\\n")
    'a␣b⏎'
    """
    return token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")


class Picture:
    """A figure as a PNG with its alternative text: what a notebook shows, stores and reads aloud."""

    def __init__(self, figure: Figure, alt: str):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100, facecolor="white", metadata={"Software": None})
        self.png = base64.b64encode(buffer.getvalue()).decode()
        self.alt = alt

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"image/png": self.png, "text/plain": self.alt}, {"image/png": {"alt": self.alt}}


def show(alt: str) -> None:
    """Show the current figure in the notebook, with `alt` saying what there is to see; then close it."""
    from IPython.display import display

    picture = Picture(plt.gcf(), alt)
    plt.close()
    display(picture)


# --- matrices -----------------------------------------------------------------------------------------------------


def matrix(
    values: torch.Tensor,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    cmap=SIGNED,
    limits: tuple[float, float] | None = None,
    blank: torch.Tensor | None = None,
    numbers: bool | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A matrix (R, N) as coloured cells, with its numbers written in when there are few.

    `rows` and `columns` are the names at the ticks; cells where `blank` is true, and infinite ones, stay empty.
    Without `limits` the colours run from -m to m for the largest size m, so that white is zero.
    """
    values = torch.as_tensor(values).detach().float().cpu()
    blank = torch.zeros_like(values, dtype=torch.bool) if blank is None else torch.as_tensor(blank).cpu()
    blank = blank | ~values.isfinite()
    R, N = values.shape
    if ax is None:
        _, ax = plt.subplots(figsize=(min(1.6 + 0.36 * N, 11), min(1.2 + 0.36 * R, 10)), layout="constrained")
    m = values[~blank].abs().max().item() if (~blank).any() else 1.0
    low, high = limits or (-m, m)
    ax.imshow(np.ma.masked_array(values.numpy(), blank.numpy()), cmap=cmap, vmin=low, vmax=high, aspect="equal")
    _name_ticks(ax.xaxis, columns, N)
    _name_ticks(ax.yaxis, rows, R)
    ax.tick_params(length=0)
    if numbers if numbers is not None else values.numel() <= 100:
        shades = ax.images[-1].to_rgba(values.numpy())[..., :3] @ (0.299, 0.587, 0.114)  # how bright each cell looks
        for r, c in (~blank).nonzero().tolist():
            colour = "white" if shades[r, c] < 0.5 else "black"
            ax.text(c, r, f"{values[r, c]:.2f}", ha="center", va="center", color=colour, size=8)
    return ax


def _name_ticks(axis, names: Sequence[str] | None, count: int) -> None:
    if names is None:
        return
    if len(names) != count:
        raise ValueError(f"{len(names)} names for {count} cells: give one name for each row and column")
    size = 10 if count <= 20 else 8 if count <= 40 else 6
    axis.set_ticks(range(count), [str(name) for name in names], size=size)


def attention(
    weights: torch.Tensor, tokens: Sequence[str], *, numbers: bool | None = None, ax: Axes | None = None
) -> Axes:
    """One attention map: weights (T, T) on a fixed scale from 0, white, to 1; each row is one position that looks.

    When no position looks ahead, the cells above the diagonal are masked and stay blank.
    """
    weights = torch.as_tensor(weights).detach()
    ahead = torch.ones_like(weights, dtype=torch.bool).triu(1)
    blank = ahead if not weights[ahead].any() else None
    alone, tokens = ax is None, [visible(token) for token in tokens]
    ax = matrix(weights, tokens, tokens, cmap=ATTENTION, limits=(0, 1), blank=blank, numbers=numbers, ax=ax)
    if alone:
        ax.figure.colorbar(ax.images[0], ax=ax, shrink=0.5, label="weight", ticks=[0, 0.5, 1])
    ax.set(xlabel="looks at", ylabel="position that looks")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def heads(weights: torch.Tensor, tokens: Sequence[str], columns: int = 4) -> np.ndarray:
    """One panel for each head: weights (H, T, T), all on the scale from 0 to 1 -> an array of H Axes."""
    H = len(weights)
    columns = min(columns, H)
    rows = -(-H // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.9 * columns, 3.0 * rows),
        layout="constrained",
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for h, ax in enumerate(axes.flat):
        if h < H:
            attention(weights[h], tokens, numbers=False, ax=ax)
            ax.set_title(f"head {h}")
            lowest = h + columns >= H  # nothing below: the last row, or above a gap in it
            ax.tick_params(labelsize=7, labelbottom=lowest, labelleft=h % columns == 0)
            ax.set(xlabel="looks at" if lowest else "", ylabel="position that looks" if h % columns == 0 else "")
        else:
            ax.set_visible(False)
    return axes.ravel()[:H]


def layers(maps: Sequence[torch.Tensor], tokens: Sequence[str]) -> np.ndarray:
    """Every head of every layer: L tensors (H, T, T), all on the scale from 0 to 1 -> an array (L, H) of Axes."""
    L, H = len(maps), len(maps[0])
    figure, axes = plt.subplots(L, H, figsize=(2.4 * H + 0.8, 2.4 * L + 0.4), layout="constrained", squeeze=False)
    for layer, weights in enumerate(maps):
        for h in range(H):
            ax = attention(weights[h], tokens, numbers=False, ax=axes[layer, h])
            ax.set(xlabel="", ylabel=f"layer {layer}" if h == 0 else "", title=f"head {h}" if layer == 0 else "")
            ax.tick_params(labelsize=7, labelleft=h == 0, labelbottom=layer == L - 1)
    return axes


def explore(
    maps: torch.Tensor | Sequence[torch.Tensor], tokens: Sequence[str], *, layer: int = 0, head: int = 0
) -> Explorer:
    """Attention maps to walk through in a notebook: point at a token and see where every head of a layer looks.

    `maps` is what `probe.attention` records for one sequence, L tensors (1, H, T, T), or L tensors (H, T, T), or one
    tensor (L, H, T, T), (H, T, T) or (T, T); `tokens` are its T tokens. It starts at `layer` and `head`, which are
    what is seen where scripts do not run. Raises ValueError when they are not there, or the maps are no such weights.

        with probe.attention(model) as maps:
            model(idx)
        plot.explore(maps, [tokenizer.decode([i]) for i in idx[0].tolist()])
    """
    weights, tokens = stack(maps, len(tokens)), [visible(token) for token in tokens]
    for name, chosen, count in [("layer", layer, weights.shape[0]), ("head", head, weights.shape[1])]:
        if not 0 <= chosen < count:
            raise ValueError(f"there is no {name} {chosen}: choose from 0 to {count - 1}")

    def picture() -> str:
        figure = Figure(figsize=(6, 5.4), layout="constrained")
        names = [token.replace("$", r"\$") for token in tokens]  # a dollar sign, not the beginning of a formula
        ax = attention(weights[layer, head], names, numbers=False, ax=figure.subplots())
        figure.colorbar(ax.images[0], ax=ax, shrink=0.5, label="weight", ticks=[0, 0.5, 1])
        ax.set_title(f"layer {layer}, head {head}")
        with warnings.catch_warnings():  # a token that the font has no letter for is a box, and no warning
            warnings.filterwarnings("ignore", "Glyph .* missing")
            return Picture(figure, "").png

    scale = [to_hex(ATTENTION(weight)) for weight in (0.0, 0.5, 1.0)]
    return Explorer(weights, tokens, layer, head, scale, QUERY, picture)


def table(probabilities: torch.Tensor, tokens: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """A table of what follows what: probabilities (V, V), row = the token now, column = the token next.

    The darkest colour is the largest probability in the table.
    """
    probabilities, tokens = torch.as_tensor(probabilities).detach(), [visible(token) for token in tokens]
    if ax is None:
        _, ax = plt.subplots(figsize=(9, 9), layout="constrained")
    ax = matrix(
        probabilities, tokens, tokens, cmap=PROBABILITY, limits=(0, probabilities.max().item()), numbers=False, ax=ax
    )
    ax.set(xlabel="next", ylabel="now")
    return ax


# --- curves and bars ----------------------------------------------------------------------------------------------


def spread(places: Sequence[float], gap: float) -> np.ndarray:
    """`places`, in rising order, moved apart as little as it takes to leave `gap` between neighbours."""
    y = np.array(places, dtype=float)
    for _ in range(100):
        for i in range(len(y) - 1):
            overlap = gap - (y[i + 1] - y[i])
            if overlap > 0:
                y[i], y[i + 1] = y[i] - overlap / 2, y[i + 1] + overlap / 2
    return y


def label_ends(ax: Axes, places: Mapping[str, float], colours: Mapping[str, str] | None = None) -> None:
    """Write each name at the right edge, at the height of its line; names that would overlap move apart."""
    ax.autoscale_view()  # matplotlib would put this off until it draws, and the heights below would be the old ones
    names = sorted(places, key=places.get)
    heights = [ax.transData.transform((0, places[name]))[1] * 72 / ax.figure.dpi for name in names]  # in points
    for name, height, moved in zip(names, heights, spread(heights, gap=13)):
        ax.annotate(
            name,
            (1.01, places[name]),
            (0, moved - height),
            xycoords=("axes fraction", "data"),  # by its loss, so that it follows when the limits change
            textcoords="offset points",
            va="center",
            size=9,
            color=(colours or {}).get(name, BASELINE),
            annotation_clip=False,
        )


def lines(
    series: Mapping[str, Sequence[float]],
    x: Sequence[float] | None = None,
    *,
    xlabel: str = "",
    ylabel: str = "",
    log: bool = False,
    baselines: Mapping[str, float] | None = None,
    colours: Sequence[str] = SERIES,
    ax: Axes | None = None,
) -> Axes:
    """One line for each of `series`, named at its end; `baselines` are thin grey lines across. `log` scales y."""
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    ends, colour_of = {}, {}
    for (name, y), colour in zip(series.items(), cycle(colours)):
        y = np.asarray(torch.as_tensor(y).detach().cpu(), dtype=float)
        ax.plot(range(len(y)) if x is None else x, y, color=colour, marker="o" if len(y) <= 16 else None, ms=4)
        ends[name], colour_of[name] = y[-1], colour
    for name, y in (baselines or {}).items():
        ax.axhline(y, color=BASELINE, lw=0.8)
        ends[name] = y
    if log:
        ax.set_yscale("log")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    label_ends(ax, ends, colour_of)
    return ax


def loss_curve(
    history, baselines: Mapping[str, float] | None = None, *, steps: int | None = None, ax: Axes | None = None
) -> Axes:
    """Training and validation loss by step, over the `baselines`.

    `history` has `train`, a loss for each step, and `val`, pairs (steps done, loss); both in nats a token.
    `steps` fixes the width, so that a growing curve grows into it.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    ends, colours = dict(baselines or {}), {}
    for y in ends.values():
        ax.axhline(y, color=BASELINE, lw=0.8)
    if history.train:
        train = np.asarray(history.train)
        width = max(1, min(50, len(train) // 20))
        smooth = np.convolve(train, np.ones(width) / width, mode="valid")
        ax.plot(train, color=TRAIN, alpha=0.25, lw=0.8)
        ax.plot(np.arange(len(smooth)) + (width - 1) / 2, smooth, color=TRAIN)
        ends["training"], colours["training"] = smooth[-1], TRAIN
    if history.val:
        done, losses = zip(*history.val)
        ax.plot(done, losses, color=VAL, marker="o", ms=4)
        ends["validation"], colours["validation"] = losses[-1], VAL
    ax.set(xlabel="step", ylabel="loss (nats a token)", xlim=(0, steps or max(len(history.train), 1)))
    ax.spines[["top", "right"]].set_visible(False)
    label_ends(ax, ends, colours)
    return ax


def ladder(
    losses: Mapping[str, float], baselines: Mapping[str, float] | None = None, *, ax: Axes | None = None
) -> Axes:
    """One point for each model's loss, in the order given from the top; `baselines` are named thin grey lines."""
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 1.6 + 0.4 * len(losses)), layout="constrained")
    names, values = list(losses), list(losses.values())
    ax.plot(values, range(len(values)), "o", color=VAL, ms=8)
    for place, loss in enumerate(values):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        ax.annotate(
            f"{loss:.2f}", (loss, place), (9, 0), textcoords="offset points", va="center", size=10, color=VAL, bbox=box
        )
    ax.set_yticks(range(len(names)), names)
    ax.margins(x=0.12, y=0.12)
    lines_at = dict(sorted((baselines or {}).items(), key=lambda pair: pair[1]))
    for y in lines_at.values():
        ax.axvline(y, color=BASELINE, lw=0.8, zorder=0)
    low, high = ax.get_xlim()
    for name, at in zip(lines_at, spread([(y - low) / (high - low) for y in lines_at.values()], 0.05)):
        ax.annotate(name, (at, 1.02), xycoords="axes fraction", rotation=40, va="bottom", size=9, color=BASELINE)
    ax.invert_yaxis()
    ax.set(xlabel="validation loss (nats a token), lower is better")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def distribution(
    probabilities: torch.Tensor,
    names: Sequence[str],
    *,
    top: int | None = None,
    colour: str = "#5aae9b",
    ax: Axes | None = None,
) -> Axes:
    """A bar for each probability (N,), in the order given, or the `top` largest, largest first."""
    probabilities = torch.as_tensor(probabilities).detach().float().cpu()
    order = probabilities.argsort(descending=True, stable=True)[:top] if top else torch.arange(len(probabilities))
    if ax is None:
        _, ax = plt.subplots(figsize=(min(max(1.2 + 0.3 * len(order), 5), 10), 2.6), layout="constrained")
    ax.bar(range(len(order)), probabilities[order].numpy(), color=colour)
    ax.set_xticks(range(len(order)), [visible(str(names[i])) for i in order.tolist()])
    ax.tick_params(axis="x", length=0, labelsize=10 if len(order) <= 30 else 7)
    ax.set_ylabel("probability")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def histograms(series: Mapping[str, torch.Tensor], *, xlabel: str = "", bins: int = 60, ax: Axes | None = None) -> Axes:
    """How often each value occurs, one outline for each of `series`, over one common range."""
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
    values = {name: torch.as_tensor(v).detach().float().cpu().flatten().numpy() for name, v in series.items()}
    low, high = min(v.min() for v in values.values()), max(v.max() for v in values.values())
    for (name, v), colour in zip(values.items(), SERIES):
        ax.hist(v, bins=bins, range=(low, high), histtype="stepfilled", alpha=0.35, color=colour, density=True)
        ax.hist(v, bins=bins, range=(low, high), histtype="step", color=colour, density=True, label=name)
    ax.set(xlabel=xlabel, ylabel="density")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def points(places: torch.Tensor, names: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Named points in the plane: places (N, 2)."""
    places = torch.as_tensor(places).detach().float().cpu()
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 5), layout="constrained")
    ax.scatter(places[:, 0], places[:, 1], s=0)
    for (x, y), name in zip(places.tolist(), names):
        ax.annotate(visible(str(name)), (x, y), ha="center", va="center", size=10)
    ax.margins(0.08)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def triangle(tokens: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """The lessons in one window: row t shows its context, tokens[: t + 1], in grey, and its target in colour."""
    T = len(tokens) - 1
    if ax is None:
        _, ax = plt.subplots(figsize=(0.55 * (T + 1) + 1.2, 0.42 * T + 0.6), layout="constrained")
    for t in range(T):
        for c in range(t + 2):
            target = c == t + 1
            face, edge = (VALUE, VALUE) if target else ("#f3f3f3", "#c8c8c8")
            ax.add_patch(plt.Rectangle((c - 0.46, t - 0.42), 0.92, 0.84, facecolor=face, edgecolor=edge))
            ax.text(c, t, visible(tokens[c]), ha="center", va="center", color="white" if target else "black", size=11)
    ax.set(xlim=(-0.6, T + 0.6), ylim=(T - 0.4, -0.6), aspect="equal", xlabel="position in the window")
    ax.set_yticks(range(T), [f"lesson {t}" for t in range(T)])
    ax.set_xticks(range(T + 1))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def text(
    tokens: Sequence[str],
    values: torch.Tensor,
    *,
    cmap=PROBABILITY,
    limits: tuple[float, float] = (0.0, 1.0),
    width: int = 60,
    ax: Axes | None = None,
) -> Axes:
    """A passage in which each token stands on the colour of its value (N,); NaN stays white.

    A token that ends in a newline ends its line, and so does one that would pass `width` characters. The coloured
    cells are `ax.collections[0]`, for a colour bar.
    """
    values = torch.as_tensor(values).detach().float().cpu()
    if len(tokens) != len(values):
        raise ValueError(f"{len(tokens)} tokens and {len(values)} values: give one value for each token")
    shown, places, row, column = [visible(token) for token in tokens], [], 0, 0
    for token, letters in zip(tokens, shown):
        if column and column + len(letters) > width:
            row, column = row + 1, 0
        places.append((row, column))
        row, column = (row + 1, 0) if token.endswith("\n") else (row, column + len(letters))
    if ax is None:
        _, ax = plt.subplots(figsize=(0.115 * width + 0.2, 0.24 * (places[-1][0] + 1) + 0.3), layout="constrained")
    cells = [plt.Rectangle((c, r - 0.5), len(letters), 1) for (r, c), letters in zip(places, shown)]
    patches = PatchCollection(cells, cmap=cmap, clim=limits, linewidths=0)
    patches.set_array(values.numpy())
    ax.add_collection(patches)
    shades = patches.to_rgba(values.numpy())[:, :3] @ (0.299, 0.587, 0.114)
    for (r, c), letters, shade, value in zip(places, shown, shades, values):
        colour = "white" if shade < 0.5 and value.isfinite() else "black"
        for k, letter in enumerate(letters):
            ax.text(c + k + 0.5, r, letter, ha="center", va="center", color=colour, size=9, family="monospace")
    ax.set(xlim=(0, width), ylim=(places[-1][0] + 0.6, -0.6))
    ax.axis("off")
    return ax
