"""What was measured, in tables and pictures."""

import re
import statistics
from pathlib import Path
from typing import NamedTuple

Cell = str | int | float  # a float is seconds
Table = list[tuple[Cell, ...]]  # what a run has found: the head, then the rows


class Span(NamedTuple):
    """What somebody had when."""

    text: str  # an order's number
    begin: float  # seconds
    end: float


Lanes = dict[str, list[Span]]  # who, and what they had


def cell(values: list[Cell]) -> str:
    """Return the runs' values: the median and the range of seconds, or what they were."""
    seconds = [value for value in values if isinstance(value, float)]
    if len(seconds) < len(values):
        return " or ".join(dict.fromkeys(map(str, values)))
    scale, places, unit = (1, 2, "s")
    if statistics.median(seconds) < 0.1:
        scale, places, unit = (1000, 1, "ms")
    figures = (min(seconds), statistics.median(seconds), max(seconds))
    low, middle, high = (f"{scale * figure:.{places}f}" for figure in figures)
    if low == high:
        return f"{middle} {unit}"
    return f"{middle} ({low}–{high}) {unit}"


def markdown(runs: list[Table]) -> str:
    """Return a table: in each cell what all the runs have found."""
    rows = [
        [cell(list(same)) for same in zip(*row, strict=True)] for row in zip(*runs, strict=True)
    ]
    head, *others = [f"| {' | '.join(row)} |\n" for row in rows]
    return "".join([head, "|" + "---|" * len(rows[0]) + "\n", *others])


def renewed(text: str, table: str) -> str:
    """Return the text with this table for the one, if any, that has its head."""
    head = re.escape(table.splitlines()[0])
    return re.sub(rf"(?m)^{head}\n(\|.*\n)*", lambda _: table, text)


def draw(path: Path, panels: dict[str, Lanes]) -> None:
    """Draw who had which order when: panels, by caption, below each other on one time axis."""
    import matplotlib  # only here, as it takes a second
    from matplotlib.figure import Figure

    heights = [len(lanes) for lanes in panels.values()]
    size = (9, 0.3 * sum(heights) + 0.5 * len(panels) + 0.4)  # inches
    figure = Figure(size, layout="constrained", facecolor="white")  # on dark pages, too
    column = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (caption, lanes) in zip(column, panels.items(), strict=True):
        axes.set_title(caption, loc="left", fontsize=10)
        for who, lane in reversed(lanes.items()):
            for text, begin, end in lane:
                axes.barh(who, end - begin, left=begin, color="#b3de69", edgecolor="grey")
                axes.text((begin + end) / 2, who, text, ha="center", va="center", fontsize=9)
        axes.set(xlim=(0, None), axisbelow=True)
        axes.grid(axis="x", color="#dddddd")
    column[-1].set_xlabel("seconds")
    with matplotlib.rc_context({"svg.hashsalt": "orders"}):  # the same figures, the same file
        figure.savefig(path, metadata={"Date": None})
