"""The experiments, with short orders: what was measured holds at any speed."""

import math
from pathlib import Path
from typing import Any

from experiments import measure
from experiments.report import draw, markdown
from rig.broker import Broker, running

READMES = [line for path in measure.READMES for line in path.read_text("utf-8").splitlines()]


def rows(found: measure.Found) -> list[dict[str, Any]]:
    """Return a table's rows by the names of its columns; a README must have its head."""
    (head, *others), _ = found
    assert markdown([[head]]).splitlines()[0] in READMES
    return [dict(zip(head, row, strict=True)) for row in others]


def new_lines(found: measure.Found) -> list[str]:
    """Return the lines of a table that the READMEs do not have word for word."""
    return [line for line in markdown([found[0]]).splitlines() if line not in READMES]


def test_orders_go_to_consumers_that_are_free(broker: Broker) -> None:
    found = rows(measure.consumers(broker, work=1.5))
    assert [row["orders each"] for row in found] == ["5", "3, 2", "2, 2, 1", "1, 1, 1, 1, 1"]
    for row in found:
        late = row["measured"] - 1.5 * math.ceil(5 / row["consumers"])
        assert -0.002 <= late < 1.35, f"no round less or more (logs have milliseconds): {row}"


def test_worker_that_is_down_holds_up_direct_calls_only(broker: Broker, tmp_path: Path) -> None:
    found = measure.outage(broker, work=0.4)
    direct, queue, down_direct, down_repeated, down_queue = rows(found)
    for row in (direct, down_repeated):
        assert row["caller runs for"] >= row["last processed"] >= 5 * 0.4
    for row in (queue, down_queue):
        assert row["caller runs for"] < row["last processed"] >= 5 * 0.4
    assert [row["not processed"] for row in rows(found)] == [0, 0, 3, 0, 0]
    assert [row["failed calls"] for row in (direct, queue, down_direct, down_queue)] == [0, 0, 3, 0]
    assert down_direct["last processed"] == "never" and down_repeated["failed calls"] >= 1
    back = 2.5 * 0.4 + 3  # when the worker is
    assert down_repeated["caller runs for"] >= back > down_queue["caller runs for"]
    draw(tmp_path / "outage.svg", found[1])


def test_prefetch_count_leaves_most_to_the_fast_consumer(broker: Broker) -> None:
    limited, unlimited = rows(measure.prefetch(broker, work=1))
    assert limited["orders of slow, fast"] in ("1, 9", "2, 8"), "2 if the fast one was held up"
    assert 1 - 0.002 <= limited["measured"] < 2.9
    assert unlimited["orders of slow, fast"] == "5, 5" and unlimited["measured"] >= 5 - 0.002


def test_crashes_lose_what_the_readme_says(broker: Broker) -> None:
    assert new_lines(measure.crashes(broker, work=0.4)) == []


def test_death_of_rabbitmq_is_as_the_readme_says(tmp_path: Path) -> None:
    with running(Broker(tmp_path)) as broker:  # its own, as it is frozen and killed
        assert new_lines(measure.death_of_rabbitmq(broker, work=0)) == []


def test_crowd_waits_for_the_work_only_by_direct_calls(broker: Broker) -> None:
    direct, queue = rows(measure.callers(broker, work=1))
    assert min(direct["last processed"], queue["last processed"]) >= 200 / 2 * 1 / 20 - 0.002
    assert direct["median wait"] > direct["last processed"] / 4
    assert queue["median wait"] < direct["median wait"] / 3
