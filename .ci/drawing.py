"""The vocabulary of the course's diagrams: boxes, arrows, roads and small matrices, written as SVG.

Every picture is a white card, so that it reads on a light page and on a dark one, 640 units wide. No text is smaller
than 15 units: 9 pixels on a phone. Fonts are generic, and the same drawing gives the same bytes.
"""

from math import hypot
from xml.sax.saxutils import escape

WIDTH = 640
SMALL, NORMAL, LARGE = 15, 16, 20

# Shared with gptlib.plot; a test compares them.
QUERY, KEY, VALUE = "#0072B2", "#D55E00", "#009E73"
ATTENTION = ("#ffffff", "#9d85c9", "#2d1160")  # weights: white 0, dark 1
SIGNED = ("#8c3a00", "#ffffff", "#00486e")  # scores: white 0
MASKED = "#d9d9d9"

INK, MUTED, ROAD = "#1f2328", "#57606a", "#adb5bf"
KINDS = {  # what a box is -> fill, outline, thickness of the outline
    "attention": ("#e5dcf3", "#9d85c9", 2),
    "feed-forward": ("#fdeec2", "#c9a227", 2),
    "embedding": ("#f8dde6", "#c2708f", 2),
    "norm": ("#ffffff", MUTED, 1.5),
    "step": ("#ffffff", MUTED, 1.5),
    "struck": ("#f6f7f8", "#8c959f", 1.5),
}


def number(value):
    """A coordinate, to a tenth: 3.0 -> 3, 3.14 -> 3.1."""
    return f"{round(value, 1):g}"


def mix(low, high, share):
    """The colour `share` of the way from `low` to `high`."""
    pairs = [(int(low[i : i + 2], 16), int(high[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def shade(stops, value):
    """The colour at `value`, from 0 to 1, along three stops."""
    return mix(stops[0], stops[1], 2 * value) if value < 0.5 else mix(stops[1], stops[2], 2 * value - 1)


class Drawing:
    """One picture. y runs downwards; texts and boxes are placed by their centre."""

    def __init__(self, title, alt, height):
        self.title, self.alt, self.height = title, alt, height
        self.parts, self.late = [], []  # late: what lies over everything else
        self.text(28, 38, title, size=LARGE, bold=True, anchor="start")

    def add(self, element, **attributes):
        given = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
        self.parts.append(f"<{element}{given}/>")

    def text(self, x, y, words, size=NORMAL, anchor="middle", fill=INK, bold=False, mono=False, halo=None):
        """One line; with a halo it stays legible over lines, and is drawn last."""
        style = f'font-family="{"monospace" if mono else "sans-serif"}" font-size="{size}" fill="{fill}"'
        style += ' font-weight="bold"' if bold else ""
        style += f' stroke="{halo}" stroke-width="7" stroke-linejoin="round" paint-order="stroke"' if halo else ""
        place = f'x="{number(x)}" y="{number(y + 0.36 * size)}" text-anchor="{anchor}"'
        (self.late if halo else self.parts).append(f"<text {place} {style}>{escape(words)}</text>")

    def lines(self, x, y, *rows, step=21, **style):
        """Rows of text, the first at `y`."""
        for i, row in enumerate(rows):
            self.text(x, y + i * step, row, **style)

    def shape(self, x, y, words, anchor="start", **style):
        self.text(x, y, words, **{"size": SMALL, "anchor": anchor, "mono": True, **style})

    def rect(self, x, y, w, h, fill, stroke="none", thickness=1, radius=0, **more):
        place = {"x": number(x), "y": number(y), "width": number(w), "height": number(h)}
        self.add("rect", **place, rx=radius, fill=fill, stroke=stroke, stroke_width=thickness, **more)

    def box(self, x, y, w, h, kind, *rows, mono=False, bold=False):
        """A box of one of the KINDS, with rows of text in its middle."""
        fill, stroke, thickness = KINDS[kind]
        struck = kind == "struck"
        dashes = {"stroke_dasharray": "5 4"} if struck else {}
        self.rect(x - w / 2, y - h / 2, w, h, fill, stroke, thickness, radius=7, **dashes)
        style = {"mono": mono, "bold": bold} | ({"fill": MUTED, "halo": fill} if struck else {})
        self.lines(x, y - 10 * (len(rows) - 1), *rows, step=20, size=SMALL if mono else NORMAL, **style)

    def frame(self, x, y, w, h, stroke="#d0d7de", fill="#fafbfc"):
        self.rect(x, y, w, h, fill, stroke, 1.5, radius=12)

    def path(self, d, colour=INK, width=2, **more):
        more = {"stroke_linecap": "round", "stroke_linejoin": "round", **more}
        self.add("path", d=d, fill="none", stroke=colour, stroke_width=width, **more)

    def head(self, x, y, dx, dy, colour, size):
        """An arrowhead with its tip at (x, y), pointing along (dx, dy)."""
        length = hypot(dx, dy)
        dx, dy = dx / length * size, dy / length * size
        corners = [(x, y), (x - dx - 0.5 * dy, y - dy + 0.5 * dx), (x - dx + 0.5 * dy, y - dy - 0.5 * dx)]
        self.add("polygon", points=" ".join(f"{number(a)},{number(b)}" for a, b in corners), fill=colour)

    def arrow(self, *points, colour=INK, width=2, size=11, tip=True, radius=10, **more):
        """A line through `points` with rounded corners; its head ends at the last."""
        (ax, ay), (bx, by) = points[-2:]
        end = (bx, by)
        if tip:
            length = hypot(bx - ax, by - ay)
            end = (bx - (bx - ax) / length * size * 0.8, by - (by - ay) / length * size * 0.8)
        route = [points[0], *points[1:-1], end]
        d = f"M{number(route[0][0])} {number(route[0][1])}"
        for before, corner, after in zip(route, route[1:], route[2:]):
            near = []
            for other in (before, after):
                length = hypot(other[0] - corner[0], other[1] - corner[1])
                share = min(radius, length / 2) / length
                near += [corner[0] + (other[0] - corner[0]) * share, corner[1] + (other[1] - corner[1]) * share]
            ax_, ay_, bx_, by_ = (number(value) for value in near)
            d += f"L{ax_} {ay_}Q{number(corner[0])} {number(corner[1])} {bx_} {by_}"
        d += f"L{number(end[0])} {number(end[1])}"
        self.path(d, colour, width, **{"stroke_linecap": "butt", **more})
        if tip:
            (ax, ay), (bx, by) = points[-2:]
            self.head(bx, by, bx - ax, by - ay, colour, size)

    def road(self, *points, width=16, size=27, tip=True, radius=24, colour=ROAD):
        """The residual path: thick, grey, with a line down its middle."""
        self.arrow(*points, colour=colour, width=width, size=size, tip=tip, radius=radius)
        (ax, ay), (bx, by) = points[-2:]
        length = hypot(bx - ax, by - ay)
        back = 1.1 * size if tip else 0
        last = (bx - (bx - ax) / length * back, by - (by - ay) / length * back)
        dashes = {"stroke_dasharray": "9 9"}
        self.arrow(*points[:-1], last, colour="#ffffff", width=1.8, tip=False, radius=radius, **dashes)

    def plus(self, x, y, r=12, colour=INK):
        """An addition on the road."""
        self.add("circle", cx=number(x), cy=number(y), r=r, fill="#ffffff", stroke=colour, stroke_width=2)
        arm = 0.55 * r
        across = f"M{number(x - arm)} {number(y)}h{number(2 * arm)}"
        self.path(f"{across}M{number(x)} {number(y - arm)}v{number(2 * arm)}", colour)

    def cells(self, x, y, colours, w, h=None, stroke="#ffffff"):
        """A small matrix, its upper left corner at (x, y); a cell without a colour stays empty."""
        h = h or w
        for r, row in enumerate(colours):
            for c, colour in enumerate(row):
                if colour:
                    self.rect(x + c * w, y + r * h, w, h, colour, stroke, 1.5)

    def outline(self, x, y, w, h, colour, thickness=2):
        self.rect(x, y, w, h, "none", colour, thickness)

    def strike(self, x, y, w, h):
        """Two strokes across: not in a GPT."""
        down = f"M{number(x)} {number(y)}l{number(w)} {number(h)}"
        self.path(f"{down}M{number(x)} {number(y + h)}l{number(w)} {number(-h)}", INK, 4)

    def svg(self):
        size = f'width="{WIDTH}" height="{self.height}" viewBox="0 0 {WIDTH} {self.height}"'
        label = 'role="img" aria-labelledby="title desc"'
        rows = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {label}>',
            f'<title id="title">{escape(self.title)}</title>',
            f'<desc id="desc">{escape(self.alt)}</desc>',
            f'<rect x="1" y="1" width="{WIDTH - 2}" height="{self.height - 2}" rx="14" fill="#fff" stroke="#d0d7de"/>',
            *self.parts,
            *self.late,
            "</svg>",
        ]
        return "\n".join(rows) + "\n"
