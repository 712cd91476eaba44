"""The attention explorer: the maps of all layers and heads on the page, for mouse, touch and keyboard.

The page gets the weights in whole percents, `explorer.js`, `explorer.css` and, for where scripts do not run (GitHub, a
notebook that is not trusted yet), a picture of one layer. Its bytes differ between versions of matplotlib: a cell that
ends in `explore(...)` needs the tag nbval-ignore-output.

L layers · H heads · T positions
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from gptlib import plot

MAX_TOKENS, MAX_WEIGHTS = 256, 2_000_000  # a causal map stores half of its weights: at most 1.4 MB in the notebook


def explore(maps: Tensor | Sequence[Tensor], tokens: Sequence[str], *, layer: int = 0, head: int = 0) -> "Explorer":
    """Attention maps to explore in a notebook: choose a query position and see what every head of a layer attends to.

    `maps` is what `probe.attention` records for one sequence, L tensors (1, H, T, T), or L tensors (H, T, T), or one
    tensor (L, H, T, T), (H, T, T) or (T, T); `tokens` are its T tokens. It starts at `layer` and `head`, and shows that
    layer where scripts do not run. Raises ValueError when these are no attention weights, or too many for a page.

        with probe.attention(model) as maps:
            model(idx)
        explore(maps, [tokenizer.decode([i]) for i in idx[0].tolist()])
    """
    weights = as_maps(maps, len(tokens))
    for name, chosen, count in (("layer", layer, weights.shape[0]), ("head", head, weights.shape[1])):
        if not 0 <= chosen < count:
            raise ValueError(f"there is no {name} {chosen}: choose from 0 to {count - 1}")
    return Explorer(weights, [plot.visible(token) for token in tokens], layer, head)


def as_maps(maps: Tensor | Sequence[Tensor], count: int) -> Tensor:
    """The maps of `count` tokens, checked, as one tensor (L, H, T, T)."""
    layers = list(maps) if not isinstance(maps, Tensor) or maps.ndim == 4 else [maps]
    if not layers:
        raise ValueError("no maps: run the model inside `with probe.attention(model) as maps:` first")
    for i, layer in enumerate(layers):
        if layer.ndim == 4 and len(layer) != 1:
            raise ValueError(f"maps of a batch of {len(layer)} sequences: choose one, as in [m[:1] for m in maps]")
        layers[i] = layer.detach()[(0,) if layer.ndim == 4 else (None,) * (3 - layer.ndim)]  # (H, T, T)
    shapes = sorted({tuple(layer.shape) for layer in layers})
    if len(shapes) > 1 or len(shapes[0]) != 3 or shapes[0][1] != shapes[0][2]:
        raise ValueError(f"maps of shapes {shapes}: every layer must have the same shape (heads, T, T)")
    H, T, _ = shapes[0]
    if T != count:
        raise ValueError(f"{count} tokens for maps of {T} positions: give one token for each position")
    if not 0 < T <= MAX_TOKENS or len(layers) * H * T * T > MAX_WEIGHTS:
        limit = f"1 to {MAX_TOKENS} tokens and {MAX_WEIGHTS:,} weights: use a shorter text, or fewer layers (maps[:2])"
        raise ValueError(f"{T} tokens in {len(layers)} layers of {H} heads do not fit on a page, which holds {limit}")
    weights = torch.stack(layers).cpu().double()  # in this order: Apple's GPU has no float64
    if not weights.isfinite().all() or weights.min() < 0 or (weights.sum(-1) - 1).abs().max() > 0.01:
        raise ValueError("not attention weights: each row must sum to 1, with no number below 0 and none missing")
    return weights


def to_percent(weights: Tensor) -> Tensor:
    """Weights as whole percents (uint8), each at most 0.502 of a percent away.

    The last digits of a weight differ between machines, and the percents must not. So they change at 0.498, 1.498, … %,
    where no fraction of up to 128 positions is near; 1/8 = 12.5 % would be on an edge at a half.
    """
    return (100 * weights.double() + 0.502).floor().to(torch.uint8)


class Explorer:
    """What a notebook shows for attention weights (L, H, T, T) over `tokens`: HTML, or a picture of one layer."""

    def __init__(self, weights: Tensor, tokens: list[str], layer: int, head: int):
        L, H, T, _ = weights.shape
        causal = not weights.triu(1).any()
        kept = to_percent(weights)[..., torch.ones(T, T).tril(0 if causal else T).bool()]  # the rest is masked
        self.data = {"tokens": tokens, "layers": L, "heads": H, "layer": layer, "head": head, "causal": causal}
        self.data["weights"] = base64.b64encode(kept.numpy().tobytes()).decode()
        self.data["name"] = hashlib.sha256(json.dumps(self.data).encode()).hexdigest()[:12]
        figure = plot.heads(weights[layer], tokens)[0].figure
        alt = f"Attention over {T} tokens in layer {layer} (of {L}, counted from 0): one map for each of its {H} heads."
        self.picture = plot.Picture(figure, alt)
        plt.close(figure)

    def __repr__(self) -> str:
        return self.picture.alt

    def _repr_html_(self) -> str:
        """A piece of a page: what stands there without scripts, and the script that puts the explorer in its place."""
        style, script = (files(__name__).joinpath(f"explorer.{kind}").read_text("utf-8") for kind in ("css", "js"))
        data = json.dumps(self.data).replace("<", "\\u003c")  # so that no token can end the script
        # The classes tell MathJax, old and new, that two dollar signs among the tokens are no formula.
        return f"""<div class="tex2jax_ignore mathjax_ignore" data-explorer="{self.data["name"]}">
<div><p>{self.picture.alt} To explore every layer, run this notebook or trust it.</p>
<img width="{self.picture.meta["width"]}" alt="{self.picture.alt}" src="data:image/png;base64,{self.picture.png}"></div>
<style>{style}</style>
<script>(() => {{
{script}
explorer({data});
}})();</script>
</div>"""
