"""Explorer: attention maps to walk through on the page, with a mouse, a finger or the keyboard.

The page gets everything in one piece: the weights, the script that shows them and, for where scripts do not run
(GitHub, a notebook that is not trusted yet), a picture and a table that need neither script nor style.
The same maps always give the same characters: no clock, no chance, no library that packs differently elsewhere.

L layers · H heads · T positions
"""

import base64
import hashlib
import json
import struct
import zlib
from collections.abc import Sequence
from html import escape

import torch
import torch.nn.functional as F
from torch import Tensor


def stack(maps: Tensor | Sequence[Tensor], count: int) -> Tensor:
    """The maps of `count` tokens, checked, as one tensor (L, H, T, T).

    `maps` is what `probe.attention` records, L tensors (1, H, T, T), or L tensors (H, T, T), or one tensor
    (L, H, T, T), (H, T, T) or (T, T). Raises ValueError when they are not weights of one sequence of `count` tokens.
    """
    layers = list(maps) if not isinstance(maps, Tensor) or maps.dim() == 4 else [maps]
    if not layers:
        raise ValueError("no maps: run the model inside `with probe.attention(model) as maps:` first")
    for i, layer in enumerate(layers):
        if layer.dim() == 4 and len(layer) != 1:
            raise ValueError(f"maps of a batch of {len(layer)} sequences: choose one, as in [m[:1] for m in maps]")
        layers[i] = layer.detach().double().cpu().reshape(-1, *layer.shape[-2:])  # (H, T, T)
    shapes = sorted({tuple(layer.shape) for layer in layers})
    if len(shapes) > 1 or shapes[0][1] != shapes[0][2]:
        raise ValueError(f"maps of shapes {shapes}: every layer must have the same shape (heads, T, T)")
    weights = torch.stack(layers)  # (L, H, T, T)
    if weights.shape[-1] != count:
        raise ValueError(f"{count} tokens for maps of {weights.shape[-1]} positions: give one token for each position")
    if not weights.isfinite().all() or weights.min() < 0 or (weights.sum(-1) - 1).abs().max() > 0.01:
        raise ValueError("not attention weights: each row must sum to 1, with no number below 0 and none missing")
    return weights


def whole_percents(weights: Tensor) -> Tensor:
    """Weights as whole percents (uint8), each at most 0.502 of a percent away.

    The last digits of a weight differ from machine to machine; what is printed differs when they straddle the edge
    between two percents. The edges lie at 0.498, 1.498, ... % because no fraction of up to 128 positions is near one:
    an average over 8 or 40 of them, 12.5 % or 2.5 %, would sit on an edge at a half.
    """
    return (100 * weights.double() + 0.502).floor().to(torch.uint8)


def png(pixels: Tensor, colours: Sequence[tuple[int, ...]]) -> str:
    """A picture (height, width) of indices into `colours`, as a PNG in base64 that is not compressed.

    Compressed, the same picture would be other bytes with another version of zlib; stored, it is the same everywhere.
    """
    height, width = pixels.shape
    raw = F.pad(pixels, (1, 0)).numpy().tobytes()  # each line begins with a 0: no filter
    data = b"\x78\x01"
    for start in range(0, len(raw), 65535):
        part = raw[start : start + 65535]
        data += struct.pack("<BHH", start + 65535 >= len(raw), len(part), 65535 - len(part)) + part
    file = b"\x89PNG\r\n\x1a\n"
    for kind, chunk in [
        (b"IHDR", struct.pack(">2I5B", width, height, 8, 3, 0, 0, 0)),  # 8 bits a pixel, an index into the palette
        (b"PLTE", bytes(value for colour in colours for value in colour)),
        (b"IDAT", data + struct.pack(">I", zlib.adler32(raw))),
        (b"IEND", b""),
    ]:
        file += struct.pack(">I", len(chunk)) + kind + chunk + struct.pack(">I", zlib.crc32(kind + chunk))
    return base64.b64encode(file).decode()


def shade(percent: int, scale: Sequence[str]) -> tuple[int, ...]:
    """The colour of a weight, red, green and blue from 0 to 255; `scale` are the colours of 0, 50 and 100 percent.

    >>> shade(25, ["#ffffff", "#9d85c9", "#2d1160"])
    (206, 194, 228)
    """
    low, high = scale[:2] if percent < 50 else scale[1:]
    ends = [(int(low[i : i + 2], 16), int(high[i : i + 2], 16)) for i in (1, 3, 5)]
    return tuple(a + (b - a) * (percent - 50 * (percent >= 50)) // 50 for a, b in ends)


class Explorer:
    """What a notebook shows for attention weights (L, H, T, T) over `tokens`; it starts at one `layer` and `head`.

    `scale` are the colours ("#rrggbb") of the weights 0, 0.5 and 1, and `asks` is that of the position that looks.
    `picture()` draws a PNG, in base64, for where no HTML is shown, such as a PDF.
    """

    def __init__(self, weights: Tensor, tokens: Sequence[str], layer: int, head: int, scale, asks: str, picture):
        L, H, T, _ = weights.shape
        self.percents, self.causal, self.tokens = whole_percents(weights), not weights.triu(1).any(), list(tokens)
        self.layer, self.head, self.scale, self.asks, self.picture = layer, head, scale, asks, picture
        self.alt = f"Attention of {T} tokens, {L} layers of {H} heads each; here layer {layer}, head {head}."

    def _repr_mimebundle_(self, include=None, exclude=None):
        shown = {"text/html": self.html(), "image/png": self.picture(), "text/plain": self.alt}
        return shown, {"image/png": {"alt": self.alt}}

    def html(self) -> str:
        """A piece of a page: what stands there without scripts, then the script that puts itself in its place."""
        L, H, T, _ = self.percents.shape
        kept = self.percents[..., torch.ones(T, T).tril().bool()] if self.causal else self.percents
        data = {
            "tokens": self.tokens,
            "layers": L,
            "heads": H,
            "layer": self.layer,
            "head": self.head,
            "causal": self.causal,
            "weights": base64.b64encode(kept.contiguous().numpy().tobytes()).decode(),
            "style": STYLE % {"dark": DARK, "asks": self.asks, **dict(zip(["none", "half", "full"], self.scale))},
        }
        data["name"] = hashlib.sha256(json.dumps(data).encode()).hexdigest()[:12]
        # A "<" inside a script could end it, as in "</script>"; written as \u003c it is the same text to JSON.
        script = SCRIPT.replace("DATA", json.dumps(data).replace("<", "\\u003c"))
        # The classes tell MathJax, old and new, that two dollar signs among the tokens are no formula.
        opening = f'<div class="tex2jax_ignore mathjax_ignore" data-explorer="{data["name"]}">'
        return f"{opening}\n{self.still()}\n<script>{script}</script>\n</div>"

    def still(self) -> str:
        """The chosen layer without scripts: a small map of each head, and where each position looks most."""
        maps = self.percents[self.layer]  # (H, T, T)
        H, T, _ = maps.shape
        size, columns = max(1, 64 // T), min(H, 6)  # pixels a cell; maps side by side
        cells = maps.repeat_interleave(size, 1).repeat_interleave(size, 2)
        framed = F.pad(F.pad(cells, (1, 1, 1, 1), value=101), (0, 0, 0, 0, 0, -H % columns))
        wall = torch.cat([torch.cat(list(row), dim=1) for row in framed.split(columns)])
        source = png(wall, [shade(percent, self.scale) for percent in range(101)] + [(200, 200, 200)])
        about = f"Layer {self.layer}, one map a head, head 0 first: each row is a position that looks, darker is more."

        best, at = maps.max(dim=-1)  # (H, T); of equals the first, as in the script
        names = [f"{i} <b>{escape(token)}</b>" for i, token in enumerate(self.tokens)]
        rows = [[f"<th>head {h}</th>" for h in range(H)]]
        rows += [[f"<td>{names[at[h, t]]} {best[h, t]} %</td>" for h in range(H)] for t in range(T)]
        firsts = ["position", *names]
        table = "\n".join(f"<tr><th>{first}</th>{''.join(row)}</tr>" for first, row in zip(firsts, rows))
        return f"""<div>
<p>{about}</p>
<img width="{130 * columns}" alt="{about}" src="data:image/png;base64,{source}">
<p>Layer {self.layer}, where each position looks most. To explore every layer, trust the notebook or run it.</p>
<table>
{table}
</table>
</div>"""


# --- on the page --------------------------------------------------------------------------------------------------

DARK = """
    --none: #241d33; --half: #6343a3; --full: #f3ecff; --on-less: #ffffff; --on-more: #000000; --asks: #56b4e9;
    --paper: var(--jp-layout-color0, #16131c); --ink: var(--jp-ui-font-color1, #ece9f1); --quiet: #b3adc0;
    --line: #544b68; color-scheme: dark;
"""

# JupyterLab, Colab and VS Code each say in their own way whether the page is dark; elsewhere the system says it.
STYLE = """
.explorer {
    --none: %(none)s; --half: %(half)s; --full: %(full)s; --on-less: #000000; --on-more: #ffffff; --asks: %(asks)s;
    --paper: var(--jp-layout-color0, #ffffff); --ink: var(--jp-ui-font-color1, #211d2b); --quiet: #68617a;
    --line: #d6d0e2;
    padding: 10px 6px; background: var(--paper); color: var(--ink);
    font: 14px/1.45 var(--jp-ui-font-family, system-ui, sans-serif);
}
body[data-jp-theme-light="false"] .explorer, html[theme="dark"] .explorer, body.vscode-dark .explorer { %(dark)s }
@media (prefers-color-scheme: dark) {
    html:not([theme]) body:not([data-jp-theme-light], .vscode-light) .explorer { %(dark)s }
}
.explorer .choose { display: flex; flex-wrap: wrap; gap: 6px 28px; align-items: center; }
.explorer .choose > span { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: center; }
.explorer label { cursor: pointer; white-space: nowrap; }
.explorer input { accent-color: var(--half); margin: 0 4px 0 0; vertical-align: -1px; }
.explorer .choose > .scale { gap: 6px; color: var(--quiet); }
.explorer .scale i {
    width: 90px; height: 12px; border: 1px solid var(--line);
    background: linear-gradient(to right, var(--none), var(--half), var(--full));
}
.explorer .scroll { margin: 12px 0 6px; padding: 4px 4px 8px 0; overflow-x: auto; }
.explorer .grid {
    display: grid; gap: 3px 2px; grid-template-columns: max-content repeat(var(--tokens), minmax(min-content, 36px));
}
.explorer .row { display: contents; }
.explorer .name {
    position: sticky; left: 0; z-index: 1; align-self: stretch; display: flex; align-items: center;
    padding-right: 10px; background: var(--paper); color: var(--quiet); font-size: 12px;
}
.explorer .chosen .name { color: var(--ink); font-weight: 600; }
.explorer .cell {
    box-sizing: border-box; min-width: 20px; height: 20px; border-radius: 3px; text-align: center;
    color: var(--on-less); background: var(--none); box-shadow: inset 0 0 0 1px var(--line);
    font: 11px/20px var(--jp-ui-font-family, system-ui, sans-serif);
}
.explorer .numbers .cell { min-width: 26px; }
.explorer .cell.more { color: var(--on-more); }
.explorer .cell.masked { color: var(--quiet); background: none; box-shadow: none; }
.explorer button.cell {
    display: flex; flex-direction: column; align-items: center; height: auto; margin: 0 0 6px; padding: 3px 3px 5px;
    border: 0; cursor: pointer;
}
.explorer button.cell small { font-size: 9px; line-height: 12px; }
.explorer button.cell bdi { font: 18px/26px var(--jp-code-font-family, ui-monospace, monospace); white-space: pre; }
.explorer button.cell b { font: 600 11px/14px var(--jp-ui-font-family, system-ui, sans-serif); }
.explorer button.asks { outline: 3px solid var(--asks); }
.explorer button[aria-pressed="true"] { outline-style: double; outline-width: 5px; }
form.explorer :is(button, input):focus-visible { outline: 3px solid var(--ink); outline-offset: 1px; }
.explorer p { margin: 4px 0 0; }
.explorer .help { color: var(--quiet); font-size: 12px; }
@media (max-width: 600px) {
    .explorer .grid { column-gap: 1px; }
    .explorer .cell { min-width: 14px; }
    .explorer button.cell { padding: 3px 0 5px; }
    .explorer button.cell bdi { font-size: 15px; }
    .explorer .name { padding-right: 4px; }
}
"""

SCRIPT = r"""
(data => {
  const { tokens, layers, heads, causal } = data, T = tokens.length;
  const weights = Uint8Array.from(atob(data.weights), letter => letter.charCodeAt(0));

  // How many percent of itself position `from` takes from position `to`; null when it may not look there.
  function percent(layer, head, from, to) {
    if (causal && to > from) return null;
    const size = causal ? T * (T + 1) / 2 : T * T;  // of a causal map only the lower triangle is kept
    return weights[(layer * heads + head) * size + (causal ? from * (from + 1) / 2 : from * T) + to];
  }

  // The two marks around a token keep one that is written from right to left from turning the sentence round.
  const named = position => `${position} ‘\u2068${tokens[position]}\u2069’`;

  function inWords({ layer, head, position }) {
    const looks = tokens.map((_, to) => ({ to, weight: percent(layer, head, position, to) }));
    const most = looks.filter(look => look.weight > 0).sort((a, b) => b.weight - a.weight || a.to - b.to).slice(0, 3);
    const [first, ...others] = most.map(({ to, weight }) => `${named(to)} (${weight} %)`);
    const where = first === undefined ? "nowhere in particular" : "most at " + first;
    const then = others.length ? ", then " + others.join(" and ") : "";
    return `Position ${named(position)}, layer ${layer}, head ${head}: looks ${where}${then}.`;
  }

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);  // strings become text, never markup
    return element;
  }

  function bringToLife(root) {
    const state = { layer: data.layer, head: data.head, position: T - 1, pinned: false };

    function radio(name, value) {
      const input = make("input", { type: "radio", name, "aria-label": `${name} ${value}` });
      input.checked = state[name] === value;
      input.onchange = () => { state[name] = value; draw(); };
      return input;
    }
    const each = (count, build) => Array.from({ length: count }, (_, i) => build(i));
    const numbers = make("input", { type: "checkbox" });
    const tiles = tokens.map((token, i) => make("button", { type: "button", class: "cell", "aria-label": named(i) },
      make("small", {}, i), make("bdi", {}, token), make("b", {})));
    const strips = each(heads, head => make("label", { class: "row" },
      make("span", { class: "name" }, radio("head", head), `head ${head}`),
      ...each(T, () => make("span", { class: "cell", "aria-hidden": true }))));
    const sentence = make("p", { "aria-live": "polite" });
    const grid = make("div", { class: "grid", style: `--tokens: ${T}` },
      make("div", { class: "row", role: "toolbar", "aria-label": "positions" },
        make("span", { class: "name" }), ...tiles),
      make("div", { class: "row", role: "radiogroup", "aria-label": "head" }, ...strips));
    const form = make("form", { class: "explorer", "data-lm-suppress-shortcuts": true },  // so JupyterLab leaves keys
      make("style", {}, data.style),
      make("div", { class: "choose" },
        make("span", { role: "radiogroup", "aria-label": "layer" }, "layer",
          ...each(layers, layer => make("label", {}, radio("layer", layer), layer))),
        make("label", {}, numbers, "numbers, in %"),
        make("span", { class: "scale", "aria-hidden": true }, "weight 0", make("i", {}), "1")),
      make("div", { class: "scroll" }, grid),
      sentence,
      make("p", { class: "help" },
        "Point at a token, or walk with the arrow keys. Click or Enter holds it, Escape lets go."));

    function paint(cell, weight, text) {
      cell.classList.toggle("masked", weight === null);
      cell.classList.toggle("more", weight > 61);  // where, in both themes, the other ink begins to read better
      cell.style.background = weight === null ? "" : weight < 50
        ? `color-mix(in srgb, var(--half) ${2 * weight}%, var(--none))`
        : `color-mix(in srgb, var(--full) ${2 * weight - 100}%, var(--half))`;
      text.textContent = numbers.checked && weight !== null ? weight : "";
    }

    function draw() {
      const { layer, head, position, pinned } = state;
      tiles.forEach((tile, to) => {
        paint(tile, percent(layer, head, position, to), tile.lastChild);
        tile.classList.toggle("asks", to === position);
        tile.setAttribute("aria-pressed", pinned && to === position);
        tile.tabIndex = to === position ? 0 : -1;  // Tab comes here once; the arrow keys go on from there
      });
      strips.forEach((strip, h) => {
        strip.classList.toggle("chosen", h === head);
        [...strip.children].slice(1).forEach((cell, to) => paint(cell, percent(layer, h, position, to), cell));
      });
      grid.classList.toggle("numbers", numbers.checked);
      sentence.textContent = inWords(state);
    }

    function show(position, pinned) {
      Object.assign(state, { position, pinned });
      draw();
    }

    numbers.onchange = draw;
    tiles.forEach((tile, i) => {
      tile.onmouseenter = tile.onfocus = () => state.pinned || show(i, false);
      tile.onclick = () => show(i, !(state.pinned && state.position === i));
      tile.onkeydown = event => {
        const next = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: T - 1 }[event.key];
        if (next === undefined) return;
        event.preventDefault();
        tiles[next]?.focus();
      };
    });
    form.onkeydown = event => { if (event.key === "Escape") show(state.position, false); };
    form.onsubmit = () => false;  // Enter at a radio button would send the form, and reload the page

    draw();
    root.append(form);
    root.firstElementChild.hidden = true;  // the picture and the table: only now that all the rest is there
    root.dataset.alive = "";
  }

  // The same object may stand on a page several times: each script brings to life what no script has yet.
  document.querySelectorAll(`[data-explorer="${data.name}"]:not([data-alive])`).forEach(bringToLife);
})(DATA)
"""
