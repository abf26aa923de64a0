"""What was measured, in tables and pictures."""

import re
import statistics
from pathlib import Path
from typing import Any

Table = list[tuple[Any, ...]]  # what a run has found: the head, then the rows

# What somebody had: an order's number, or words; begin and end in seconds; how it ended,
# which is one of the keys below, or anything else for an order that is done.
Span = tuple[str, float, float, str]
Lanes = dict[str, list[Span]]  # who, and what they had


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


def keys() -> dict[str, Any]:
    """Return how things look in a picture, and what its legend says of them."""
    import matplotlib  # only here and in draw(), as it takes a second
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    colours = matplotlib.colormaps["Set3"]  # black text is readable on each
    return {
        **{str(n): Patch(fc=colours(n - 1), ec="grey", label=f"order {n}") for n in range(1, 11)},
        "Failed": Line2D([], [], color="red", marker="x", linestyle="", label="a call that failed"),
        "cut off": Patch(fc="white", ec="red", label="cut off by the crash"),
        "down": Patch(fc="#e0e0e0", ec="grey", label="worker down"),
        "sending": Patch(fc="#636363", ec="grey", label="the caller sends all five"),
    }


def draw_lane(axes: Any, y: int, lane: list[Span], last: float, looks: dict[str, Any]) -> None:
    """Draw one lane of a time axis that ends at `last`."""
    cross = -last
    for text, begin, end, how in lane:
        key = looks[how if how in ("cut off", "down", "sending") else text]
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
    import matplotlib
    from matplotlib.figure import Figure

    looks = keys()
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
            draw_lane(axes, y, lane, last, looks)
    column[-1].set_xlabel("seconds")
    handles = [key for name, key in looks.items() if name in used]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    with matplotlib.rc_context({"svg.hashsalt": "orders"}):  # the same figures, the same file
        figure.savefig(path, metadata={"Date": None})
