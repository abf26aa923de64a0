"""What the README shows and says, taken out of it and tried."""

import contextlib
import random
import re
import shlex
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from rig.broker import Broker, wait_until
from rig.orders import RIGHTS, drain, line, names, put, ready
from rig.scripts import ROOT, Script, consumer, failing

README = (ROOT / "README.md").read_text(encoding="utf-8")


def snippet(pattern: str) -> str:
    """Return what the group in the pattern finds, over any lines."""
    found = re.search(pattern, README, re.S)
    assert found, pattern
    return found[1]


def tables(text: str) -> list[list[str]]:
    """Return the rows of each table, without its head."""
    return [table.splitlines()[2:] for table in re.findall(r"(?m)(?:^\|.*\n)+", text)]


def figures(table: list[str]) -> list[list[str]]:
    """Return each row's numbers, and the units of time behind them."""
    return [re.findall(r"\d+(?:\.\d+)?|(?<=[\d)]\s)m?s\b", row) for row in table]


def test_both_languages_have_the_same_figures() -> None:
    english, russian = README.split("\n## На русском\n")
    ours = [figures(table) for table in tables(english.partition("## Analysis")[2])]
    to_english = str.maketrans(",.мс", ".,ms")
    theirs = [figures(table) for table in tables(russian.translate(to_english))]
    assert ours == theirs and len(ours) == 5


def test_documented_rights_are_the_ones_that_are_tested() -> None:
    rights = ", ".join(f"{right} `{pattern}`" for right, pattern in RIGHTS.items())
    assert rights in " ".join(README.split())


def test_once_only_brings_each_result_once(broker: Broker, channel: Any, tmp_path: Path) -> None:
    """Each order is there six times, and six consumers are killed."""
    change = snippet("### Once only.*?```python\n(.*?)```").replace(
        "shop.db", f"{tmp_path}/shop.db"
    )
    change += "script.process_order = process_order"
    orders = names("A", 100)
    for _ in range(6):
        put(channel, *map(line, orders))
        with consumer(broker, change=change) as victim:
            victim.wait_for("Received", times=random.randint(5, 20))
            time.sleep(random.uniform(0, 0.02))
            victim.process.kill()
    with consumer(broker, change=change) as last:
        wait_until(lambda: ready(channel) == 0, "an empty queue")
        last.wait_for("Waiting for orders")
        last.stop()
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        assert database.execute("SELECT count(*) FROM invoices").fetchone() == (100,)
    assert not drain(channel)


def test_policy_lets_failed_work_wait(broker: Broker, channel: Any) -> None:
    """RabbitMQ knows it from 4.3.1 on, and else refuses it."""
    policy = shlex.split(snippet(r"rabbitmqctl (set_policy retry [^\n]*)"))
    put(channel, *map(line, ["FAILS", "B"]))
    version = re.findall("[0-9]+", broker.rabbitctl_output("version"))
    if tuple(map(int, version[:3])) < (4, 3, 1):
        with pytest.raises(subprocess.CalledProcessError):
            broker.rabbitctl_output(*policy)
        return
    try:
        broker.rabbitctl_output(*policy)
        with consumer(broker, change=failing(3)) as script:
            script.wait_for("Processed 'FAILS'")
            script.stop()
    finally:
        broker.rabbitctl_output("clear_policy", "retry")
    assert script.processed == ["B", "FAILS"], "the order behind it goes on"
    tries = [moment for _, moment in script.seen("(Received 'FAILS')")]
    waits = [after - before for before, after in zip(tries, tries[1:], strict=False)]
    assert all(n < wait < n + 2.5 for n, wait in enumerate(waits, start=1)), waits


def test_way_back_from_orders_dead(broker: Broker, channel: Any) -> None:
    put(channel)
    orders = names("A", 3)
    for order in orders:
        channel.basic_publish("", "orders.dead", line(order))
    wait_until(lambda: ready(channel, "orders.dead") == 3, "three dead letters")
    with Script(
        "-c", snippet("### Back from orders.dead.*?python3 -c '(.*?)'\n```"), AMQP_URL=broker.url()
    ) as way:
        assert way.wait() == 0, way
    assert drain(channel, "orders") == dict.fromkeys(orders, 1)
    assert not drain(channel, "orders.dead")
