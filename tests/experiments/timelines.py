"""Draw who had which order from when to when: in block characters, and as SVG."""

import math
from html import escape
from typing import List, Tuple

Interval = Tuple[str, float, float]  # a label, begin and end in seconds
Lane = Tuple[str, List[Interval]]
Timeline = Tuple[str, List[Lane]]  # a caption, and who did what

WIDTH, MARGIN, LEFT, ROW, BAR = 760, 16, 150, 26, 20
# White text on each, and each on both cards, has a contrast of 4 to 1 or more.
COLOURS = ["#0969da", "#8250df", "#1a7f37", "#bc4c00", "#bf3989"]
FAILED, FAILED_COLOUR = "x", "#cf222e"
# A picture brings a card of its own, to be readable whatever the page behind it is.
STYLE = """\
.card { fill: #f6f8fa; stroke: #d0d7de } .rule { stroke: #d0d7de }
text { fill: #1f2328; font: 13px system-ui, sans-serif }
.caption { font-weight: 600 } .on { fill: #ffffff; font-size: 12px }
@media (prefers-color-scheme: dark) {
  .card { fill: #161b22; stroke: #3d444d } .rule { stroke: #3d444d }
  text { fill: #e6edf3 }
}"""


def end(timelines: List[Timeline]) -> float:
    """Return the last second in which anything happens."""
    return max(
        stop for _, lanes in timelines for _, spans in lanes for _, _, stop in spans
    )


def tick(seconds: float) -> float:
    """Return a round step that cuts the seconds into four to eight."""
    step = 10.0 ** math.floor(math.log10(seconds / 4))
    return next(
        step * factor for factor in (1, 2, 5, 10) if seconds / (step * factor) <= 8
    )


def in_blocks(timelines: List[Timeline], columns: int = 60) -> str:
    """Draw an order as its number and blocks, what failed as x, idle time as dots."""
    last = end(timelines)
    step = tick(last)
    indent = 2 + max(len(name) for _, lanes in timelines for name, _ in lanes)

    def column(seconds: float) -> int:
        return min(round(seconds / last * (columns - 1)), columns - 1)

    lines = []
    for caption, lanes in timelines:
        axis = [" "] * (columns + 6)
        for number in range(int(last / step) + 1):
            text = f"{number * step:g} s"
            axis[column(number * step) : column(number * step) + len(text)] = text
        lines += [caption, " " * indent + "".join(axis).rstrip()]
        for name, spans in lanes:
            row = ["·"] * columns
            for label, begin, stop in spans:
                first = column(begin)
                width = max(column(stop) - first, 1)
                text = label if len(label) <= width else ""
                row[first : first + width] = f"{text:█<{width}}"
            lines.append(f"{name:{indent}}{''.join(row)}")
        lines.append("")
    return "\n".join(lines[:-1])


def colour(label: str) -> str:
    """Return the colour of an order, or of what failed."""
    if label == FAILED:
        return FAILED_COLOUR
    return COLOURS[(int(label) - 1 if label.isdigit() else 0) % len(COLOURS)]


def in_svg(title: str, timelines: List[Timeline]) -> str:
    """Draw the same as a picture; the same order has the same colour everywhere."""
    last = end(timelines)
    scale = (WIDTH - LEFT - 2 * MARGIN) / last
    shapes: List[str] = []
    y = MARGIN

    def text(
        x: float, y: float, words: str, kind: str = "", anchor: str = "start"
    ) -> None:
        place = f'x="{x:.1f}" y="{y}" text-anchor="{anchor}"'
        shapes.append(f'<text class="{kind}" {place}>{escape(words)}</text>')

    for caption, lanes in timelines:
        text(MARGIN, y + 13, caption, "caption")
        y += ROW
        bottom = y + ROW * len(lanes)
        step = tick(last)
        for number in range(int(last / step) + 1):
            x = LEFT + number * step * scale
            shapes.append(f'<path class="rule" d="M{x:.1f} {y - 4}V{bottom}"/>')
            text(x, bottom + 14, f"{number * step:g} s", anchor="middle")
        for name, spans in lanes:
            text(MARGIN, y + 14, name)
            for label, begin, stop in spans:
                x, width = LEFT + begin * scale, max((stop - begin) * scale, 2)
                place = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"'
                shapes.append(f'<rect {place} fill="{colour(label)}"/>')
                if width > 7 * len(label) + 4:
                    text(x + width / 2, y + 14, label, "on", "middle")
            y += ROW
        y += ROW + 8
    size = f'viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    place = f'x="0.5" y="0.5" width="{WIDTH - 1}" height="{y - 1}" rx="8"'
    return "\n".join(
        [
            head,
            f"<title>{escape(title)}</title>",
            f"<style>\n{STYLE}\n</style>",
            f'<rect class="card" {place}/>',
            *shapes,
            "</svg>",
            "",
        ]
    )
