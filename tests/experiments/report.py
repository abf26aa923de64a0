"""What was measured, in tables (README.md beside this file) and pictures."""

import statistics
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

FOLDER = Path(__file__).parent

# What somebody had: an order's number, or words; begin and end in seconds; how it ended,
# which is one of KEYS, or anything else for an order that is done.
Span = tuple[str, float, float, str]
Lanes = dict[str, list[Span]]  # who, and what they had

COLOURS = matplotlib.colormaps["Set3"]  # black text is readable on each
KEYS: dict[str, Any] = {  # how things look, and what the legend says of them
    **{str(n): Patch(fc=COLOURS(n - 1), ec="grey", label=f"order {n}") for n in range(1, 11)},
    "Failed": Line2D([], [], color="red", marker="x", linestyle="", label="a call that failed"),
    "cut off": Patch(fc="white", ec="red", label="cut off by the crash"),
    "down": Patch(fc="#e0e0e0", ec="grey", label="worker down"),
    "sending": Patch(fc="#636363", ec="grey", label="the caller sends all five"),
}


def cell(values: list[Any]) -> str:
    """Return the runs' values: the median and the range of numbers. Floats are seconds."""
    if isinstance(values[0], str):
        return " or ".join(dict.fromkeys(values))
    scale, places, unit = 1, 0, ""
    if isinstance(values[0], float):
        in_ms = statistics.median(values) < 0.1
        scale, places, unit = (1000, 1, " ms") if in_ms else (1, 2, " s")
    figures = (min(values), statistics.median(values), max(values))
    low, middle, high = (f"{scale * figure:.{places}f}" for figure in figures)
    return (middle if low == high else f"{middle} ({low}–{high})") + unit


def markdown(head: list[str], runs: list[list[list[Any]]]) -> list[str]:
    """Return the lines of a table: in each cell what all the runs have found."""
    same = zip(*runs, strict=True)  # a row of each run
    rows = [[cell(list(cells)) for cells in zip(*row, strict=True)] for row in same]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def renewed(text: str, table: list[str]) -> str:
    """Return the text with this table for the one that has its head; ValueError without one."""
    lines = text.splitlines()
    begin = end = lines.index(table[0])
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    return "\n".join([*lines[:begin], *table, *lines[end:]]) + "\n"


def draw_lane(axes: Any, y: int, lane: list[Span], last: float) -> None:
    """Draw one lane of a time axis that ends at `last`."""
    cross = -last
    for text, begin, end, how in lane:
        key = KEYS[how if how in ("cut off", "down", "sending") else text]
        look = {"fc": key.get_facecolor(), "ec": key.get_edgecolor()}
        axes.broken_barh([(begin, end - begin)], (y - 0.38, 0.76), **look)
        if how == "Failed":
            cross = max(end, cross + last / 60)  # beside the one before, if both failed at once
            axes.plot(cross, y, "rx", markeredgewidth=2, zorder=3)
        if how == "sending":
            axes.text(end + last / 100, y, text, va="center", fontsize=9)
        elif end - begin > len(text) * last / 70:  # a number that has no room is left out
            axes.text((begin + end) / 2, y, text, ha="center", va="center", fontsize=9)


def draw(path: Path, panels: dict[str, Lanes]) -> None:
    """Draw who had which order when: panels, by caption, below each other on one time axis."""
    spans = [span for lanes in panels.values() for lane in lanes.values() for span in lane]
    last = max(end for _, _, end, _ in spans)
    used = {text for text, *_ in spans} | {how for *_, how in spans}
    heights = [len(lanes) for lanes in panels.values()]
    size = (9, 0.3 * sum(heights) + 0.5 * len(panels) + 0.8)  # inches
    figure = Figure(size, layout="constrained", facecolor="white")  # on dark pages, too
    column = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (caption, lanes) in zip(column, panels.items(), strict=True):
        axes.set_title(caption, loc="left", fontsize=10)
        axes.set_yticks(range(len(lanes)), list(lanes))
        axes.set(xlim=(0, last * 1.02), ylim=(len(lanes) - 0.5, -0.5), axisbelow=True)
        axes.grid(axis="x", color="#dddddd")
        for y, lane in enumerate(lanes.values()):
            draw_lane(axes, y, lane, last)
    column[-1].set_xlabel("seconds")
    keys = [key for name, key in KEYS.items() if name in used]
    figure.legend(handles=keys, loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    with matplotlib.rc_context({"svg.hashsalt": "orders"}):  # the same figures, the same file
        figure.savefig(path, metadata={"Date": None})
