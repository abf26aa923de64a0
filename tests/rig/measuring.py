"""What the experiments and the benchmark share: lines in time, memory, Markdown."""

import re
import sys
import time
from typing import List, Tuple

import psutil

from rig.broker import Broker
from rig.scripts import Script

# Of consumer.py, of the variants of it and of the peers.
RECEIVED = r"Received (\w+-\d+)"
DONE = r"(?:Processed|Worked) (\w+-\d+)"

started = time.monotonic()


def progress(text: str) -> None:
    """Say on stderr what is being measured."""
    print(f"{elapsed():5.0f} s  {text}", file=sys.stderr, flush=True)


def elapsed() -> float:
    """Return the seconds since the program was started."""
    return time.monotonic() - started


def seen(script: Script, pattern: str) -> List[Tuple[str, float]]:
    """Return (group 1, time of arrival) of each line that the pattern matches."""
    lines = zip(list(script.lines["stdout"]), script.arrivals["stdout"])
    return [
        (found[1], arrival)
        for line, arrival in lines
        for found in [re.search(pattern, line)]
        if found
    ]


def memory(pid: int) -> float:
    """Return the resident memory of a process in MB; 0 if it is gone."""
    try:
        return float(psutil.Process(pid).memory_info().rss) / 2**20
    except psutil.NoSuchProcess:
        return 0.0


def family(pid: int) -> List[psutil.Process]:
    """Return the process and all that it has started, as far as they run."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def server_version(broker: Broker) -> str:
    """Return the version of RabbitMQ."""
    with broker.connect() as connection:
        return str(connection._impl.server_properties["version"])


def plural(count: int, noun: str) -> str:
    """Return such as "1 order" and "2 orders"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def table(head: List[str], rows: List[List[object]]) -> str:
    """Return a Markdown table, its columns aligned for whoever reads it as text."""
    cells = [head, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(head))]
    lines = [
        "| " + " | ".join(f"{cell:{width}}" for cell, width in zip(row, widths)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
