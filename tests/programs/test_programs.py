"""Demo, soak and experiments, with short orders: what they find holds at any speed."""

import math
import re
from collections import Counter
from pathlib import Path

from pika.adapters.blocking_connection import BlockingChannel as Channel

from programs import experiments, soak
from programs.report import Table, in_russian, markdown
from rig.node import LIMIT, SPEED, Node
from rig.orders import ids, put_orders, ready_count
from rig.scripts import ROOT, Program

PROGRAMS = Path(__file__).parent
README = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


# Demo


def test_demo_shows_both_sides_and_leaves_a_users_rabbitmq_alone(
    node: Node, channel: Channel
) -> None:
    """Where orders wait, and AMQP_URL leads to it."""
    put_orders(channel, "MINE-1", "MINE-2")
    with Program(PROGRAMS / "demo.py", environment={"AMQP_URL": node.url()}) as demo:
        assert demo.wait() == 0
    for event in ("producer . .* Stored", "consumer . .* Processed"):
        assert demo.texts(f"^{event} '(.*?)'") == [f"ORD-00{number}" for number in range(1, 6)]
    assert re.search(r"ran for [\d.]+ s, the consumer took [\d.]+ s$", demo.lines[-1])
    assert ready_count(channel) == 2


# Soak


def test_short_soak_loses_nothing(tmp_path: Path) -> None:
    with Program(PROGRAMS / "soak.py", 15, environment={"TMPDIR": str(tmp_path)}) as program:
        assert program.wait(3 * LIMIT) == 0
    rows = re.findall(r"(?m)^\| ([^|]+) \| ([\d,]+) \|$", program.out)
    found = {what: int(number.replace(",", "")) for what, number in rows}
    assert found["orders stored"] > 500
    assert found["lost"] == found["in orders.dead"] == 0
    assert found["RabbitMQ killed"] and found["RabbitMQ stopped"] and found["consumers killed"]
    assert list(tmp_path.iterdir()) == []


def test_soak_counts_what_was_lost_repeated_and_dead_lettered() -> None:
    stored = set(ids("A", 5))
    worked = Counter({"A-00001": 1, "A-00002": 2, "OTHER": 1})
    counts = soak.count(stored, worked, left=Counter(["A-00003"]), dead=Counter(["A-00004"]))
    assert counts == {
        "orders stored": 5,
        "processed more than once": 1,
        "in orders.dead": 1,
        "lost": 1,
    }


# Experiments


def assert_readme_has(table: Table) -> None:
    """See that README has each line of a table, in both languages."""
    text = markdown([table])
    for line in text.splitlines() + in_russian(text).splitlines():
        assert line in README


def test_orders_go_to_consumers_that_are_free(node: Node) -> None:
    work = 1.5 / SPEED
    (_, *rows), _ = experiments.consumers(node, work)
    assert [each for _, each, _, _ in rows] == ["5", "3, 2", "2, 2, 1", "1, 1, 1, 1, 1"]
    for number, _, _, measured in rows:
        late = float(measured) - work * math.ceil(5 / int(number))
        assert -0.05 < late < 1.2 / SPEED, f"no round less or more: {rows}"


def test_crashes_lose_what_readme_says(node: Node) -> None:
    assert_readme_has(experiments.crashes(node, work=0.4))
