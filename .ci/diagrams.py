"""Draw the diagrams of the course into images/, and list them with their texts: `make pictures`.

In every picture of the model, numbers flow upwards, from the text to the prediction. A grey road is the residual path.
The order and the shapes are those of gptlib.attention and gptlib.model; dropout is left out.

B batch · T positions · C channels (n_embd) · H heads · D channels a head (C = H * D) · V vocabulary
"""

from math import exp, sqrt
from pathlib import Path

from drawing import (
    ATTENTION,
    INK,
    KEY,
    LARGE,
    MASKED,
    MUTED,
    QUERY,
    ROAD,
    SIGNED,
    SMALL,
    VALUE,
    Drawing,
    mix,
    shade,
)

IMAGES = Path(__file__).resolve().parent.parent / "images"


def transformer():
    """The Transformer of Vaswani et al. 2017 (figure 1), with what a GPT leaves out struck out."""
    d = Drawing(
        "Strike out the encoder: a GPT is left",
        "Two stacks of layers side by side. The encoder on the left, and the cross-attention through which the decoder "
        "on the right would look at it, are struck out. Masked self-attention, feed-forward, the residual path, "
        "embeddings and the last linear layer stay: the plan of a GPT, its norms still on the road.",
        724,
    )
    # The encoder: a road on the outside, parts inside, and a norm on the road after each addition.
    d.frame(16, 330, 268, 262)
    d.frame(356, 226, 268, 366)
    d.arrow((52, 650), (52, 300), (320, 300), (320, 406), tip=False, colour="#ccd1d7", width=12, radius=16)
    d.box(180, 650, 180, 36, "struck", "tokens + positions")
    d.arrow((90, 650), (46, 650), tip=False, colour="#ccd1d7", width=12)
    d.text(180, 690, "text to translate", fill=MUTED)
    for y, words in ((560, "self-attention"), (456, "feed-forward")):
        d.arrow((52, y), (90, y), colour=MUTED)
        d.box(180, y - 23, 180, 62, "struck", words)
        d.arrow((90, y - 46), (64, y - 46), colour=MUTED)
        d.plus(52, y - 46, colour=MUTED)
        d.box(52, y - 77, 54, 26, "struck", "norm")
    d.text(96, 352, "encoder, 6 layers", bold=True, anchor="start", fill=MUTED, halo="#fafbfc")
    # What the decoder would take from it.
    d.arrow((317, 404), (317, 446), (370, 446), colour=KEY)
    d.arrow((323, 404), (323, 420), (370, 420), colour=VALUE)
    d.shape(345, 406, "v", "middle", fill=VALUE, bold=True)
    d.shape(345, 462, "k", "middle", fill=KEY, bold=True)

    # The decoder, mirrored.
    d.road((550, 650), (588, 650), (588, 176), (552, 176), width=14)
    d.box(460, 650, 180, 36, "embedding", "tokens + positions")
    d.text(460, 690, "text so far")
    d.box(460, 176, 180, 36, "embedding", "linear, softmax")
    d.arrow((460, 158), (460, 122))
    d.text(460, 106, "next token")
    parts = [(560, "attention", "masked", "self-attention"), (456, "struck", "cross-attention")]
    for y, kind, *words in [*parts, (352, "feed-forward", "feed-forward")]:
        colour = MUTED if kind == "struck" else INK
        d.arrow((588, y), (550, y), colour=QUERY if kind == "struck" else INK)
        d.box(460, y - 23, 180, 62, kind, *words)
        d.arrow((550, y - 46), (576, y - 46), colour=colour)
        d.plus(588, y - 46, colour=colour)
        d.box(588, y - 77, 54, 26, "struck" if kind == "struck" else "norm", "norm")
    d.shape(562, 441, "q", "middle", fill=QUERY, bold=True)
    d.text(372, 248, "decoder, 6 layers", bold=True, anchor="start")
    d.strike(28, 316, 244, 360)
    d.strike(374, 408, 172, 50)
    d.strike(555, 361, 66, 36)
    d.lines(28, 92, "Struck out: the encoder, and the", "cross-attention that looks at it.", anchor="start")
    d.lines(28, 148, "What is left is the plan of a GPT.", "Its norms move off the road:", anchor="start")
    d.lines(28, 190, "one in front of each part,", "one more after the last block.", anchor="start")
    return d


def decoder():
    """gptlib.GPT."""
    d = Drawing(
        "Decoder only: one road from ids to logits",
        "From the bottom up: ids (B, T) pick rows of the token embedding, positions (T,) pick rows of the position "
        "embedding, and their sum is the residual path (B, T, C). It runs through n_layer blocks, each with attention "
        "and feed-forward, then a norm and the head, which gives logits (B, T, V). "
        "The head and the token embedding are one matrix.",
        820,
    )
    road = 260
    tie = {"colour": "#c2708f", "width": 2.5, "tip": False, "stroke_dasharray": "7 5"}
    d.arrow((66, 712), (40, 712), (40, 132), (170, 132), **tie)
    d.road((road, 650), (road, 226))
    # ids and places
    for x, what in ((150, "token"), (420, "position")):
        d.box(x, 712, 172, 50, "embedding", f"{what} embedding")
        d.arrow((x, 778), (x, 739))
    d.text(110, 790, "ids", bold=True)
    d.shape(132, 790, "(B, T)")
    d.text(436, 790, "positions", bold=True, anchor="end")
    d.shape(446, 790, "(T,)")
    d.arrow((150, 687), (150, 650), (road - 12, 650))
    d.arrow((420, 687), (420, 650), (road + 12, 650))
    d.plus(road, 650)
    d.shape(140, 667, "(B, T, C)", "end")
    d.shape(430, 667, "(T, C)")
    d.shape(road + 16, 625, "(B, T, C)")
    # the blocks
    for y, name in ((514, "block 0"), (404, "block 1"), (264, "last block")):
        d.frame(212, y, 314, 94, fill="none", stroke="#8c959f")
        for cy, kind in ((y + 69, "attention"), (y + 25, "feed-forward")):
            d.arrow((road, cy + 8), (318, cy + 8), size=9)
            d.arrow((318, cy - 8), (road + 9, cy - 8), size=9)
            d.box(412, cy, 188, 34, kind, kind)
        d.text(202, y + 47, name, anchor="end")
    d.text(412, 381, "· · ·", fill=MUTED, bold=True, size=LARGE)
    d.path("M532 268q12 0 12 12v144q0 8 8 8q-8 0 -8 8v144q0 12 -12 12", MUTED)
    d.shape(557, 423, "n_layer", bold=True)
    d.text(557, 443, "times", size=SMALL, anchor="start")
    # norm, head, logits
    d.box(road, 212, 180, 28, "norm", "norm")
    d.shape(road + 16, 244, "(B, T, C)")
    d.arrow((road, 198), (road, 154))
    d.shape(road + 12, 176, "(B, T, C)")
    d.box(road, 132, 180, 42, "embedding", "head")
    d.arrow((road, 111), (road, 80))
    d.text(road - 12, 92, "logits", bold=True, anchor="end")
    d.shape(road + 12, 92, "(B, T, V)")
    d.rect(28, 320, 90, 70, "#ffffff")
    d.lines(30, 334, "one matrix", "used twice", anchor="start", size=SMALL)
    d.shape(30, 376, "(V, C)")
    return d


def block():
    """gptlib.Block; the widths of the boxes are to scale, C and 4C."""
    d = Drawing(
        "A block reads the road twice and adds twice",
        "The residual path x (B, T, C) as a vertical road. Below, a side street leads through norm1 and multi-head "
        "attention back to an addition on the road; above, a second one leads through norm2 and the feed-forward, "
        "which widens C to 4C, bends, and narrows to C, to a second addition.",
        712,
    )
    road, column, C = 76, 388, 108
    d.road((road, 690), (road, 62))
    d.text(road + 20, 676, "x", bold=True, anchor="start")
    d.shape(road + 36, 676, "(B, T, C)")
    d.text(road + 20, 74, "x", bold=True, anchor="start")
    d.shape(road + 36, 74, "(B, T, C)")

    d.arrow((road, 634), (column, 634), (column, 600))
    d.shape(column + 12, 620, "(B, T, C)")
    d.box(column, 585, C, 30, "norm", "norm1", mono=True)
    d.arrow((column, 570), (column, 534))
    d.shape(column + 12, 552, "(B, T, C)")
    d.box(column, 502, C, 62, "attention", "multi-head", "attention")
    d.arrow((column, 471), (column, 434), (road + 12, 434))
    d.shape(column + 12, 451, "(B, T, C)")
    d.plus(road, 434)
    d.shape(road + 22, 415, "x = x + attention(norm1(x))")
    d.lines(column + 70, 492, "positions", "communicate", anchor="start", fill=MUTED)

    d.arrow((road, 380), (column, 380), (column, 346))
    d.shape(column + 12, 366, "(B, T, C)")
    d.box(column, 331, C, 30, "norm", "norm2", mono=True)
    d.arrow((column, 316), (column, 284))
    d.shape(column + 12, 300, "(B, T, C)")
    half, wide = C / 2, 2 * C
    d.add(
        "path",
        d=f"M{column - half:g} 284L{column - wide:g} 240V204L{column - half:g} 160H{column + half:g}"
        f"L{column + wide:g} 204V240L{column + half:g} 284Z",
        fill="#fdeec2",
        stroke="#c9a227",
        stroke_width=2,
        stroke_linejoin="round",
    )
    d.path(f"M{column - wide:g} 240H{column + wide:g}M{column - wide:g} 204H{column + wide:g}", "#c9a227", 1.5)
    d.text(column, 263, "widen")
    d.text(column - 40, 222, "GELU", anchor="end")
    d.shape(column - 26, 222, "(B, T, 4C)")
    d.text(column, 182, "narrow")
    d.arrow((column, 160), (column, 126), (road + 12, 126))
    d.shape(column + 12, 142, "(B, T, C)")
    d.plus(road, 126)
    d.shape(road + 22, 107, "x = x + feed_forward(norm2(x))")
    d.text(612, 162, "feed-forward", anchor="end")
    d.lines(612, 294, "each position", "on its own", anchor="end", fill=MUTED)
    return d


# Notebook 04's word: what each letter of 'cats' asks for, offers and gives.
Q = ((0, 0), (0, 2), (2, 0), (2, -1))
K = ((0, 1), (1, 0), (0, 1), (0, 1))
V = ((1, 0), (0, 3), (2, 0), (3, 0))


def cats():
    """Scores (T, T), weights (T, T) and out (T, D) of that word, as gptlib.attention computes them."""
    scores = [[sum(a * b for a, b in zip(q, k)) / sqrt(2) for k in K] for q in Q]
    weights = []
    for t, row in enumerate(scores):
        grown = [exp(score) for score in row[: t + 1]]
        weights.append([e / sum(grown) for e in grown] + [0.0] * (3 - t))
    out = [[sum(w * v[i] for w, v in zip(row, V)) for i in range(2)] for row in weights]
    return scores, weights, out


def head():
    """gptlib.Head."""
    d = Drawing(
        "One head: ask, offer, give",
        "From the bottom up: x (B, T, C) becomes query, key and value, each (B, T, D). Queries times keys over root D "
        "are scores (B, T, T); the mask turns the upper triangle grey; softmax makes weights (B, T, T), a triangle "
        "whose rows sum to 1; weights times values give out (B, T, D).",
        730,
    )
    scores, weights, out = cats()
    letters, limit = "cats", max(abs(score) for row in scores for score in row)

    def vectors(x, y, values, colour):
        tints = [[mix("#ffffff", colour, 0.12 + 0.8 * abs(value) / 3) for value in row] for row in values]
        d.cells(x - 20, y, tints, 20)
        d.outline(x - 20, y, 40, 80, colour, 3)

    # x -> q, k, v
    d.cells(260, 606, [["#d5dae0"] * 6] * 4, 20)
    d.outline(260, 606, 120, 80, MUTED)
    for t, letter in enumerate(letters):
        d.shape(244, 616 + 20 * t, letter, "middle", size=SMALL)
    d.text(394, 636, "x", bold=True, anchor="start")
    d.shape(394, 659, "(B, T, C)")
    d.arrow((290, 604), (290, 586), (110, 586), (110, 538), colour=QUERY)
    d.arrow((320, 604), (320, 568), (220, 568), (220, 538), colour=KEY)
    d.arrow((350, 604), (350, 577), (600, 577), (600, 538), colour=VALUE)
    named = ((110, Q, QUERY, "query", "asks"), (220, K, KEY, "key", "offers"), (600, V, VALUE, "value", "gives"))
    for x, values, colour, name, does in named:
        vectors(x, 456, values, colour)
        side, anchor = (x + 28, "start") if name == "key" else (x - 28, "end")
        d.text(side, 486, name, bold=True, fill=colour, anchor=anchor)
        d.text(side, 508, does, fill=colour, anchor=anchor)
        d.shape(x + (10 if x < 500 else -10), 552, "(B, T, D)", "start" if x < 500 else "end")
    # scores -> masked -> weights
    d.arrow((110, 454), (110, 426), colour=QUERY)
    d.arrow((220, 454), (220, 426), colour=KEY)
    d.box(165, 410, 150, 30, "step", "q @ k.mT / √D", mono=True)
    d.arrow((165, 395), (165, 352))
    d.text(155, 373, "scores", bold=True, anchor="end")
    d.shape(175, 373, "(B, T, T)")
    signed = [[shade(SIGNED, 0.5 + score / limit / 2) for score in row] for row in scores]
    masked = [[colour if s <= t else MASKED for s, colour in enumerate(row)] for t, row in enumerate(signed)]
    looks = [[shade(ATTENTION, w) if s <= t else None for s, w in enumerate(row)] for t, row in enumerate(weights)]
    for x, colours in ((117, signed), (292, masked), (467, looks)):
        d.cells(x, 254, colours, 24, stroke="#c4cad1")
        d.outline(x, 254, 96, 96, MUTED if x < 400 else "#9d85c9")
        for i, letter in enumerate(letters):
            d.shape(x + 12 + 24 * i, 242, letter, "middle")
            if x == 117:
                d.shape(x - 12, 266 + 24 * i, letter, "middle")
    for x, words in ((252, "mask"), (427, "softmax")):
        d.arrow((x - 33, 302), (x + 33, 302))
        d.text(x, 286, words, size=SMALL)
    for x, words in ((340, "masked"), (515, "weights")):
        d.text(x, 368, words, bold=True)
        d.shape(x, 389, "(B, T, T)", "middle")
    for t in range(4):
        d.shape(577, 266 + 24 * t, "1", "middle", bold=True)
    d.shape(577, 242, "Σ", "middle", bold=True)
    # weights, v -> out
    d.arrow((515, 228), (515, 198), colour="#9d85c9")
    d.arrow((600, 454), (600, 198), colour=VALUE)
    d.box(555, 182, 130, 30, "step", "weights @ v", mono=True)
    d.arrow((555, 167), (555, 124))
    d.shape(545, 147, "(B, T, D)", "end")
    mixed = [[mix("#ffffff", VALUE, 0.12 + 0.8 * value / 3) for value in row] for row in out]
    d.cells(535, 40, mixed, 20)
    d.outline(535, 40, 40, 80, VALUE, 3)
    d.text(522, 80, "out", bold=True, anchor="end")
    notes = ("Row: the position that asks.", "Column: the one that offers.", "Grey: the future, minus infinity.")
    d.lines(28, 92, *notes, "Σ: each row of weights sums to 1.", anchor="start", fill=MUTED, step=23)
    return d


def heads():
    """gptlib.MultiHeadAttention with notebook 05's sizes: C = 12, H = 3, D = 4; widths to scale."""
    d = Drawing(
        "Many heads: one product in, one product out",
        "From the bottom up: x (B, T, C) becomes a strip (B, T, 3C) of queries, keys and values of three heads. "
        "split_heads gives each head its own (B, H, T, D); each head attends with its own map; merge_heads puts the "
        "answers side by side, (B, T, C), and project mixes them into (B, T, C).",
        690,
    )
    D, left, middle, tall = 44, 200, 410, 32
    colours = {"q": QUERY, "k": KEY, "v": VALUE}
    panel = [left + h * 144 for h in range(3)]

    def piece(x, y, words, fill, ink="#ffffff"):
        d.rect(x, y, D, tall, fill, "#ffffff", 2)
        d.shape(x + D / 2, y + tall / 2, words, "middle", fill=ink, bold=True)

    def step(y, name, shape):
        d.shape(28, y - 11, name, bold=True)
        d.shape(28, y + 11, shape)

    # x -> qkv -> the strip
    d.rect(middle - 1.5 * D, 632, 3 * D, tall, "#d5dae0", MUTED, 1.5)
    step(648, "x", "(B, T, C)")
    d.arrow((middle, 630), (middle, 586))
    for x in panel:
        d.frame(x - 4, 268, 3 * D + 8, 168, fill="none")
    for p, (part, colour) in enumerate(colours.items()):
        for h in range(3):
            x = middle - 4.5 * D + (3 * p + h) * D
            goal = panel[h] + p * D + D / 2
            d.path(f"M{x + D / 2:g} 550C{x + D / 2:g} 480 {goal:g} 500 {goal:g} 430", colour, 2.5)
            piece(x, 550, f"{part}{h}", colour)
    step(566, "qkv", "(B, T, 3C)")
    # the heads
    patterns = (
        [[1.0], [0.85, 0.15], [0.08, 0.82, 0.1], [0.05, 0.05, 0.8, 0.1]],
        [[1.0], [0.5, 0.5], [0.33, 0.33, 0.34], [0.25, 0.25, 0.25, 0.25]],
        [[1.0], [0.9, 0.1], [0.85, 0.05, 0.1], [0.8, 0.05, 0.05, 0.1]],
    )
    for h, x in enumerate(panel):
        d.text(x + 8, 288, f"head {h}", anchor="start", size=SMALL, fill=MUTED)
        for p, (part, colour) in enumerate(colours.items()):
            piece(x + p * D, 398, f"{part}{h}", colour)
        d.arrow((x + 22, 396), (x + 22, 364), colour=QUERY)
        d.arrow((x + 56, 396), (x + 56, 364), colour=KEY)
        d.cells(x + 11, 308, [[shade(ATTENTION, w) for w in row] for row in patterns[h]], 13, stroke="#c4cad1")
        d.arrow((x + 67, 336), (x + 87, 336), colour="#9d85c9", size=9)
        d.arrow((x + 2.5 * D, 396), (x + 2.5 * D, 354), colour=VALUE)
        piece(x + 2 * D, 320, f"{h}", "#a6dccd", INK)
        goal = middle + (h - 1) * D
        d.path(f"M{x + 2.5 * D:g} 318C{x + 2.5 * D:g} 262 {goal:g} 262 {goal:g} 212", VALUE, 2.5)
    step(414, "split_heads", "(B, H, T, D)")
    step(336, "attend", "(B, H, T, D)")
    # merged, projected
    for h in range(3):
        piece(middle + (h - 1.5) * D, 180, f"{h}", "#a6dccd", INK)
    step(196, "merge_heads", "(B, T, C)")
    d.arrow((middle, 178), (middle, 130))
    d.rect(middle - 1.5 * D, 94, 3 * D, tall, "#d5dae0", MUTED, 1.5)
    step(110, "project", "(B, T, C)")
    d.shape(612, 99, "C = H × D", "end", bold=True)
    d.shape(612, 121, "12 = 3 × 4", "end")
    return d


def residual():
    """The residual path as a road; norms are left out, for notebook 06 comes to them later."""
    d = Drawing(
        "Each part reads a copy and adds its result",
        "A wide road from the embeddings at the bottom to the head at the top. At each attention and feed-forward a "
        "ramp leaves the road, and another comes back to a plus on it. A dashed arrow beside the road points down: "
        "the gradient flows back along it unhindered.",
        742,
    )
    road = 250
    parts = ((636, "attention"), (524, "feed-forward"), (384, "attention"), (272, "feed-forward"))
    for y, _ in parts:  # ramps first, so that the road lies over their ends
        out = f"M{road + 10} {y + 14}C{road + 10} {y - 22} 280 {y - 22} 330 {y - 22}H402"
        back = f"M402 {y - 62}H330C280 {y - 62} {road + 8} {y - 62} {road + 8} {y - 96}"
        for d_ in (out, back):
            d.path(d_, ROAD, 12, stroke_linecap="butt")
    d.road((road, 668), (road, 114), width=36, size=44)
    for y, kind in parts:
        d.head(401, y - 22, 1, 0, MUTED, 14)
        d.head(322, y - 62, -1, 0, MUTED, 14)
        d.box(500, y - 42, 196, 66, kind, kind)
        d.plus(road, y - 92, r=13)
    d.text(300, 637, "reads a copy", anchor="start", fill=MUTED, size=SMALL)
    d.text(300, 553, "adds", anchor="start", fill=MUTED, size=SMALL)
    d.text(500, 412, "· · ·", bold=True, fill=MUTED, size=LARGE)
    d.box(road, 690, 240, 44, "embedding", "embeddings")
    d.box(road, 94, 240, 36, "embedding", "head")
    d.arrow((204, 124), (204, 660), width=3, size=15, stroke_dasharray="8 6")
    d.lines(186, 330, "the gradient", "flows back", "unhindered", anchor="end")
    d.shape(186, 408, "1 + f′(x)", "end", bold=True)
    d.lines(186, 434, "the 1 is", "the road", anchor="end")
    return d


def triangle():
    """The lessons in one window, as plot.triangle draws them."""
    d = Drawing(
        "Six characters, five lessons",
        "Five rows for the text 'To be,'. Each row shows its context in grey, one character longer than the row above, "
        "and ends in one green character, the target. What comes later is an empty dotted cell.",
        506,
    )
    letters, cell, left, top = "To␣be,", 74, 150, 108
    for c in range(6):
        d.shape(left + cell * c + 35, 88, str(c), "middle", fill=MUTED, size=17)
    d.text(left - 16, 88, "position", anchor="end", fill=MUTED)
    for t in range(5):
        y = top + cell * t
        d.text(left - 16, y + 35, f"lesson {t}", anchor="end")
        for c in range(6):
            x = left + cell * c
            if c <= t:
                d.rect(x, y, 70, 70, "#eceff2", "#bcc3cb", 1.5, radius=6)
            elif c == t + 1:
                d.rect(x, y, 70, 70, VALUE, VALUE, 1.5, radius=6)
            else:
                d.rect(x + 2, y + 2, 66, 66, "none", "#c4cad1", 1.5, radius=6, stroke_dasharray="2 6")
            if c <= t + 1:
                style = {"fill": "#ffffff", "bold": True} if c == t + 1 else {}
                d.shape(x + 35, y + 35, letters[c], "middle", size=30, **style)
    return d


STATIONS = (
    ("start", "here"), ("text to", "batches"), ("bigram",), ("the masked", "average"),
    ("a single", "head"), ("multi-head", "attention"), ("blocks",), ("GPT",),
    ("sampling",), ("positions",), ("encoder–", "decoder"), ("BPE",),
    ("GPT-2",), ("scaling",), ("fine-tuning",), ("modern", "GPT"), ("looking", "inside"),
)  # fmt: skip
READY = {*range(10), 11, 12}  # notebooks that exist


def course():
    """The course map."""
    d = Drawing(
        "Eight notebooks to a GPT, nine beyond it",
        "A winding road with seventeen stations. Dark ones are ready: 00 start here, 01 text to batches, 02 bigram, "
        "03 the masked average, 04 a single head, 05 multi-head attention, 06 blocks, 07 GPT, 08 sampling, "
        "09 positions, 11 BPE, 12 GPT-2. Pale ones are to come: 10 encoder–decoder, 13 scaling, 14 fine-tuning, "
        "15 modern GPT, 16 looking inside.",
        760,
    )
    columns, rows = (88, 236, 384, 532), (110, 246, 382, 518, 654)
    turns = [(30, rows[0])]
    for i, y in enumerate(rows[:-1]):
        edge = 612 if i % 2 == 0 else 28
        turns += [(edge, y), (edge, rows[i + 1])]
    d.road(*turns, (186, rows[-1]), width=18, size=30, radius=40, colour="#dde1e6")
    d.road(*turns[:7], (columns[3], rows[3]), width=18, radius=40, tip=False)
    for n, name in enumerate(STATIONS):
        row, column = divmod(n, 4)
        x, y = columns[column if row % 2 == 0 else 3 - column], rows[row]
        ready = n in READY
        d.add(
            "circle",
            cx=x,
            cy=y,
            r=21,
            fill=INK if ready else "#ffffff",
            stroke=INK if ready else "#8c959f",
            stroke_width=2.5,
            **({} if ready else {"stroke_dasharray": "4 4"}),
        )
        d.shape(x, y, f"{n:02}", "middle", size=17, bold=True, fill="#ffffff" if ready else MUTED)
        d.lines(x, y + 40, *name, bold=ready, fill=INK if ready else MUTED, size=17)
    d.add("circle", cx=488, cy=640, r=9, fill=INK, stroke=INK, stroke_width=2)
    d.add("circle", cx=488, cy=674, r=9, fill="#ffffff", stroke="#8c959f", stroke_width=2, stroke_dasharray="3 3")
    d.text(508, 640, "ready", anchor="start")
    d.text(508, 674, "to come", anchor="start", fill=MUTED)
    return d


DIAGRAMS = {
    "course": course,
    "triangle": triangle,
    "head": head,
    "heads": heads,
    "residual": residual,
    "block": block,
    "decoder": decoder,
    "transformer": transformer,
}

PAGE = """# Pictures

`make pictures` draws them all again. The diagrams, and this page, are written by `.ci/diagrams.py`. A page that shows
one takes the text below it as its alternative text. One language for all: numbers flow upwards; a grey road is the
residual path; queries are blue, keys orange and values green, as in the plots; attention is purple, feed-forward
yellow, embeddings pink.

![{attention}](attention.png)

*[attention.png](attention.png)*: {attention}
"""
PHOTO = (
    "An attention map of the trained model reading 'To be, or not to be': dark strips below each space, "
    "as long as the word after it"
)


def page(drawings):
    """images/README.md: every picture with its alternative text."""
    rows = [PAGE.format(attention=PHOTO)]
    for name, drawing in drawings.items():
        rows.append(f"![{drawing.alt}]({name}.svg)\n\n*[{name}.svg]({name}.svg)*: {drawing.alt}\n")
    return "\n".join(rows)


def files():
    """Everything that this script writes: name -> text."""
    drawings = {name: draw() for name, draw in DIAGRAMS.items()}
    return {**{f"{name}.svg": drawing.svg() for name, drawing in drawings.items()}, "README.md": page(drawings)}


if __name__ == "__main__":
    for name, text in files().items():
        (IMAGES / name).write_text(text, encoding="utf-8", newline="\n")
