"""Draw the course map, images/course.svg: a road with a station for each notebook, dark where it exists.

COURSE is the plan, one line for each notebook: its file's name, and its station's name in one or two lines.
"""

from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
INK, MUTED, PALE = "#1f2328", "#57606a", "#dde1e6"
COURSE = {
    "00_start_here": "start/here",
    "01_text_to_batches": "text to/batches",
    "02_bigram": "bigram",
    "03_masked_average": "masked/average",
    "04_single_head": "single/head",
    "05_multi_head": "multi-head/attention",
    "06_blocks": "blocks",
    "07_gpt": "GPT",
    "08_sampling": "sampling",
    "09_positions": "positions",
    "10_encoder_decoder": "encoder–/decoder",
    "11_bpe": "BPE",
    "12_gpt2": "GPT-2",
    "13_modern_gpt": "modern/GPT",
    "14_scaling": "scaling",
    "15_finetuning": "fine-tuning",
    "16_rewards": "rewards",
    "17_looking_inside": "looking/inside",
}
COLUMNS, STEP, TOP = (88, 236, 384, 532), 136, 110


def text(x: float, y: float, words: str, color: str, bold: bool = False, anchor: str = "middle", size: int = 17) -> str:
    weight = ' font-weight="bold"' if bold else ""
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
    return f'<text {place} font-family="sans-serif" font-size="{size}" fill="{color}"{weight}>{escape(words)}</text>'


def circle(x: float, y: float, radius: int, ready: bool) -> str:
    style = f'fill="{INK}" stroke="{INK}"' if ready else 'fill="#ffffff" stroke="#8c959f" stroke-dasharray="4 4"'
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius}" {style} stroke-width="2.5"/>'


def draw(existing: set[str]) -> str:
    """The map as SVG, with the stations of `existing` (stems of notebooks) dark; ValueError for one not in COURSE."""
    if unplanned := existing - set(COURSE):
        raise ValueError(f"tools/course_map.py has no line for {', '.join(sorted(unplanned))}: add one to COURSE")
    rows = -(-len(COURSE) // 4)
    height = TOP + STEP * (rows - 1) + 106
    title = "From counting letters to a chat model"
    names = [f"{stem[:2]} {label.replace('–/', '–').replace('/', ' ')}" for stem, label in COURSE.items()]
    ready = ", ".join(name for name, stem in zip(names, COURSE) if stem in existing)
    planned = ", ".join(name for name, stem in zip(names, COURSE) if stem not in existing)
    alt = f"A winding road with a station for each notebook. Ready: {ready}." + (
        f" Planned: {planned}." if planned else ""
    )
    road = f"M30 {TOP}"
    for row in range(rows - 1):
        y, edge, turn = TOP + STEP * row, (612, 28)[row % 2], (572, 68)[row % 2]
        road += f"H{turn}Q{edge} {y} {edge} {y + 40}V{y + STEP - 40}Q{edge} {y + STEP} {turn} {y + STEP}"
    last = COLUMNS[::-1] if rows % 2 == 0 else COLUMNS
    road += f"H{last[(len(COURSE) - 1) % 4]}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{height}" viewBox="0 0 640 {height}" role="img" '
        'aria-labelledby="title desc">',
        f'<title id="title">{title}</title>',
        f'<desc id="desc">{escape(alt)}</desc>',
        f'<rect x="1" y="1" width="638" height="{height - 2}" rx="14" fill="#fff" stroke="#d0d7de"/>',
        text(28, 45, title, INK, bold=True, anchor="start", size=20),
        f'<path d="{road}" fill="none" stroke="{PALE}" stroke-width="18"/>',
        f'<path d="{road}" fill="none" stroke="#ffffff" stroke-width="1.8" stroke-dasharray="9 9"/>',
    ]
    for n, (stem, label) in enumerate(COURSE.items()):
        row, column = divmod(n, 4)
        x, y, there = COLUMNS[column if row % 2 == 0 else 3 - column], TOP + STEP * row, stem in existing
        color = INK if there else MUTED
        parts += [circle(x, y, 21, there), text(x, y + 6, stem[:2], "#ffffff" if there else MUTED, bold=True)]
        parts += [text(x, y + 46 + 21 * i, line, color, bold=there) for i, line in enumerate(label.split("/"))]
    bottom = height - 88
    for y, words, there in ((bottom - 26, "ready", True), (bottom + 8, "planned", False)) if planned else ():
        parts += [circle(488, y, 9, there), text(508, y + 6, words, INK if there else MUTED, anchor="start", size=16)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def existing() -> set[str]:
    return {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}


if __name__ == "__main__":
    (ROOT / "images" / "course.svg").write_text(draw(existing()), encoding="utf-8", newline="\n")
