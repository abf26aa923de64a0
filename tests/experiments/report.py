"""What the experiments measured: README.md of this folder, and its pictures."""

import re
from typing import Any

from experiments.timelines import Legend, in_svg
from rig.scripts import TESTS

Result = dict[str, Any]

FOLDER = TESTS / "experiments"
ORDER: Legend = [("1", 30, "an order, with its number")]
OUTAGE: Legend = [
    *ORDER,
    ("3 x", 30, "order 3, cut off when the worker died"),
    ("3 x", 2, "a call that failed, as there was no worker"),
]
PICTURES = {  # of which results, the caption of each timeline, and the legend
    "consumers": ("time", "{workers}: five orders in {measured_s:.3f} s", ORDER),
    "prefetch": ("prefetch", "{words}: ten orders in {measured_s:.3f} s", ORDER),
    "calls": ("calls", "{way}: {outcome}", ORDER),
    "outage": ("outage", "{way}: {outcome}", OUTAGE),
}


def filled(section: str, results: Result) -> str:
    """Fill figures into a section of README.template.md.

    A line "time: | {consumers} |" becomes a row of the table for each of
    results["time"], any other line is filled from the results themselves.
    """
    lines = []
    for line in section.splitlines():
        key, is_row, row = line.partition(": | ")
        if is_row:
            lines += [f"| {row}".format(**result) for result in results[key]]
        else:
            lines.append(line.format(**results))
    return "\n".join(lines)


def markdown(results: Result) -> str:
    """Return README.md, without the sections on what was not measured."""
    template = (FOLDER / "README.template.md").read_text(encoding="utf-8")
    sections = [
        filled(section, results)
        for section in re.split("^(?=## )", template, flags=re.M)
        if set(re.findall(r"^(\w+): \| ", section, re.M)) <= set(results)
    ]
    return "\n".join(sections)


def pictures(results: Result) -> dict[str, str]:
    """Return the pictures of what was measured: name and SVG."""
    return {
        name: in_svg([(caption.format(**r), r["lanes"]) for r in results[key]], legend)
        for name, (key, caption, legend) in PICTURES.items()
        if key in results
    }
