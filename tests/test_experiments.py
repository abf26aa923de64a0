"""The experiments, with short orders: what was measured holds at any speed."""

import math
from pathlib import Path

from experiments import measure
from experiments.report import Cell, Table, draw, markdown
from rig.node import Node, running_node

READMES = [line for path in measure.READMES for line in path.read_text("utf-8").splitlines()]


def rows(table: Table) -> list[dict[str, Cell]]:
    """Return a table's rows by the names of its columns; a README must have its head."""
    head, *others = table
    assert markdown([[head]]).splitlines()[0] in READMES
    return [dict(zip(map(str, head), row, strict=True)) for row in others]


def new_lines(table: Table) -> list[str]:
    """Return the lines of a table that the READMEs do not have word for word."""
    return [line for line in markdown([table]).splitlines() if line not in READMES]


def seconds(row: dict[str, Cell], column: str) -> float:
    """Return what was measured."""
    value = row[column]
    assert isinstance(value, float), row
    return value


def test_orders_go_to_consumers_that_are_free(node: Node, tmp_path: Path) -> None:
    table, panels = measure.consumers(node, work=1.5)
    draw(tmp_path / "picture.svg", panels)
    found = rows(table)
    assert [row["orders each"] for row in found] == ["5", "3, 2", "2, 2, 1", "1, 1, 1, 1, 1"]
    for row, number in zip(found, (1, 2, 3, 5), strict=True):
        late = seconds(row, "measured") - 1.5 * math.ceil(5 / number)
        assert -0.002 <= late < 1.35, f"no round less or more (logs have milliseconds): {row}"


def test_worker_that_is_down_holds_up_direct_calls_only(node: Node) -> None:
    found = rows(measure.outage(node, work=0.4).table)
    direct, queue, down_direct, down_repeated, down_queue = found
    for row in (direct, down_repeated):
        assert seconds(row, "caller runs for") >= seconds(row, "last processed") >= 5 * 0.4
    for row in (queue, down_queue):
        assert seconds(row, "caller runs for") < seconds(row, "last processed")
        assert seconds(row, "last processed") >= 5 * 0.4
    assert [row["not processed"] for row in found] == [0, 0, 3, 0, 0]
    assert [row["failed calls"] for row in (direct, queue, down_direct, down_queue)] == [0, 0, 3, 0]
    assert down_direct["last processed"] == "never"
    assert down_repeated["failed calls"] != 0
    back = 2.5 * 0.4 + 3  # when the worker is
    assert seconds(down_queue, "caller runs for") < back
    assert seconds(down_repeated, "caller runs for") >= back


def test_prefetch_count_leaves_most_to_the_fast_consumer(node: Node) -> None:
    limited, unlimited = rows(measure.prefetch(node, work=1).table)
    assert limited["orders of slow, fast"] in ("1, 9", "2, 8"), "2 if the fast one was held up"
    assert 1 - 0.002 <= seconds(limited, "measured") < 2.9
    assert unlimited["orders of slow, fast"] == "5, 5"
    assert seconds(unlimited, "measured") >= 5 - 0.002


def test_crashes_lose_what_the_readme_says(node: Node) -> None:
    assert new_lines(measure.crashes(node, work=0.4).table) == []


def test_death_of_rabbitmq_is_as_the_readme_says(tmp_path: Path) -> None:
    with running_node(Node(tmp_path)) as node:  # its own, as it is frozen and killed
        assert new_lines(measure.death_of_rabbitmq(node, work=0).table) == []
