"""Draw who had which order from when to when, as SVG for light and dark pages."""

import math
from html import escape

# A label, begin and end in seconds. The label decides how it is drawn:
#   "3"              order 3: a bar in its colour with the number
#   "3 x"            what failed with order 3: a red bar
#   NO_WORKER        a hatched bar
#   anything else    words, beside a bar if it lasts
Span = tuple[str, float, float]
Lane = tuple[str, list[Span]]  # who, and what it had
Timeline = tuple[str, list[Lane]]  # a caption, and its lanes
Legend = list[tuple[str, int, str]]  # a label, the pixels of its bar, what it means
NO_WORKER = "no worker"

WIDTH, MARGIN, LEFT, ROW, BAR = 760, 16, 150, 26, 20  # pixels
# White text on each, and each on both cards, has a contrast of 4 to 1 or more.
COLOURS = ["#0969da", "#8250df", "#1a7f37", "#bc4c00", "#bf3989"]
FAILED_COLOUR = "#cf222e"
# A picture brings a card of its own, to be readable whatever the page behind it is.
HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" \
role="img">
<style>
.card {{ fill: #f6f8fa; stroke: #d0d7de }} .rule {{ stroke: #d0d7de }}
text {{ fill: #1f2328; font: 13px system-ui, sans-serif }}
.caption {{ font-weight: 600 }} .on {{ fill: #ffffff; font-size: 12px }}
.small {{ fill: #ffffff; font-size: 9px }}
@media (prefers-color-scheme: dark) {{
  .card {{ fill: #161b22; stroke: #3d444d }} .rule {{ stroke: #3d444d }}
  text {{ fill: #e6edf3 }}
}}
</style>
<pattern id="hatched" width="7" height="7" patternUnits="userSpaceOnUse"
  patternTransform="rotate(45)">
  <path class="rule" stroke-width="5" d="M0 0V7"/>
</pattern>
<rect class="card" x="0.5" y="0.5" width="{2}" height="{3}" rx="8"/>
"""


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(words)}</text>\n'


def bar(x: float, y: int, width: float, label: str) -> str:
    """Draw a span, `width` pixels wide, but wide enough to be seen."""
    fill = COLOURS[(int(label) - 1) % len(COLOURS) if label.isdigit() else 0]
    if label.endswith(" x"):
        fill = FAILED_COLOUR
    if label == NO_WORKER:
        fill = "url(#hatched)"
    wide = f'width="{max(width, 2):.1f}" height="{BAR}" rx="2"'
    drawn = f'<rect x="{x:.1f}" y="{y}" {wide} fill="{fill}"/>\n' if width else ""
    if label == NO_WORKER:
        return drawn + text(x + width / 2, y + 14, label, "", "middle")
    if not label.removesuffix(" x").isdigit():
        return drawn + text(x + width + 6, y + 14, label)
    if width > 7 * len(label) + 4:
        return drawn + text(x + width / 2, y + 14, label, "on", "middle")
    if width > 5 * len(label):
        return drawn + text(x + width / 2, y + 13, label, "small", "middle")
    return drawn


def ticks(last: float) -> list[float]:
    """Return round numbers of seconds up to the last, five to nine of them."""
    power = 10.0 ** math.floor(math.log10(last / 4))
    step = next(power * n for n in (1, 2, 5, 10) if last / (power * n) <= 8)
    return [number * step for number in range(int(last / step) + 1)]


def in_svg(timelines: list[Timeline], legend: Legend) -> str:
    """Return the legend, and below it the timelines, all on the same scale."""
    last = max(end for _, lanes in timelines for _, spans in lanes for *_, end in spans)
    scale = (WIDTH - LEFT - 2 * MARGIN) / last  # pixels a second
    y, drawn = MARGIN, ""
    for label, width, meaning in legend:
        drawn += bar(MARGIN, y, width, label) + text(MARGIN + 40, y + 14, meaning)
        y += ROW
    for caption, lanes in timelines:
        drawn += text(MARGIN, y + 21, caption, "caption")
        y += ROW + 8
        bottom = y + ROW * len(lanes)
        for seconds in ticks(last):
            x = LEFT + seconds * scale
            drawn += f'<path class="rule" d="M{x:.1f} {y - 4}V{bottom}"/>\n'
            drawn += text(x, bottom + 14, f"{seconds:g} s", anchor="middle")
        for name, spans in lanes:
            drawn += text(MARGIN, y + 14, name)
            for label, begin, end in spans:
                drawn += bar(LEFT + begin * scale, y, (end - begin) * scale, label)
            y += ROW
        y += ROW
    return HEAD.format(WIDTH, y, WIDTH - 1, y - 1) + drawn + "</svg>\n"
