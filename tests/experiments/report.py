"""What was measured, in tables and pictures."""

import re
import statistics
from pathlib import Path
from typing import Any

Table = list[tuple[Any, ...]]  # what a run has found: the head, then the rows

# What somebody had: an order's number, or words; begin and end in seconds; how it ended.
Span = tuple[str, float, float, str]
Lanes = dict[str, list[Span]]  # who, and what they had
COLOURS = {"Processed": "#b3de69", "Answered": "#b3de69", "Failed": "#fb8072"}
COLOURS |= {"cut off": "#fb8072", "down": "#e0e0e0", "sending": "#80b1d3"}


def cell(values: list[Any]) -> str:
    """Return the runs' values: the median and the range of numbers. Floats are seconds."""
    if any(isinstance(value, str) for value in values):
        return " or ".join(dict.fromkeys(map(str, values)))
    scale, places, unit = 1, 0, ""
    if isinstance(values[0], float):
        in_ms = statistics.median(values) < 0.1
        scale, places, unit = (1000, 1, " ms") if in_ms else (1, 2, " s")
    figures = (min(values), statistics.median(values), max(values))
    low, middle, high = (f"{scale * figure:.{places}f}" for figure in figures)
    return (middle if low == high else f"{middle} ({low}–{high})") + unit


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


def together(lane: list[Span], short: float) -> list[Span]:
    """Return the spans in turn; calls that failed right after another one become one with it."""
    found: list[Span] = []
    for text, begin, end, how in sorted(lane, key=lambda span: span[1]):
        if how == "Failed" and end - begin < short and found and begin - found[-1][2] < short:
            before = found.pop()
            text, begin = f"{before[0]}, {text}", before[1]
        found.append((text, begin, end, how))
    return found


def draw(path: Path, panels: dict[str, Lanes]) -> None:
    """Draw who had which order when: panels, by caption, below each other on one time axis."""
    import matplotlib  # only here, as it takes a second
    from matplotlib.figure import Figure

    last = max(span[2] for lanes in panels.values() for lane in lanes.values() for span in lane)
    heights = [len(lanes) for lanes in panels.values()]
    size = (9, 0.3 * sum(heights) + 0.5 * len(panels) + 0.4)  # inches
    figure = Figure(size, layout="constrained", facecolor="white")  # on dark pages, too
    column = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (caption, lanes) in zip(column, panels.items(), strict=True):
        axes.set_title(caption, loc="left", fontsize=10)
        for who, lane in reversed(lanes.items()):
            for text, begin, end, how in together(lane, last / 50):
                edge = "red" if how == "Failed" else "grey"
                axes.barh(who, end - begin, left=begin, color=COLOURS[how], edgecolor=edge)
                room = end - begin > len(text) * last / 70
                at, align = ((begin + end) / 2, "center") if room else (end, "left")
                axes.text(at, who, f" {text} ", ha=align, va="center", fontsize=9)
        axes.set(xlim=(0, last * 1.02), axisbelow=True)
        axes.grid(axis="x", color="#dddddd")
    column[-1].set_xlabel("seconds")
    with matplotlib.rc_context({"svg.hashsalt": "orders"}):  # the same figures, the same file
        figure.savefig(path, metadata={"Date": None})
