"""What the README shows and says, taken out of it and tried."""

import contextlib
import random
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

from rig.broker import Broker, wait_until
from rig.orders import drain, line, names, put, ready
from rig.rights import RIGHTS
from rig.scripts import ROOT, Script, consumer

README = (ROOT / "README.md").read_text(encoding="utf-8")


def snippet(pattern: str) -> str:
    """Return what the group in the pattern finds, over any lines."""
    found = re.search(pattern, README, re.S)
    assert found, pattern
    return found[1]


def test_documented_rights_are_the_ones_that_are_tested() -> None:
    rights = ", ".join(f"{right} `{pattern}`" for right, pattern in RIGHTS.items())
    assert rights in " ".join(README.split())


def test_once_only_brings_each_result_once(
    broker: Broker, channel: Any, tmp_path: Path, draw: random.Random
) -> None:
    """Each order is there six times, and six consumers are killed."""
    change = snippet("### Once only.*?```python\n(.*?)```").replace(
        "shop.db", f"{tmp_path}/shop.db"
    )
    change += "script.process_order = process_order"
    orders = names("A", 100)
    for _ in range(6):
        put(channel, *map(line, orders))
        with consumer(broker, change=change) as victim:
            victim.wait_for("Received", times=draw.randint(5, 20))
            time.sleep(draw.uniform(0, 0.02))
            victim.process.kill()
    with consumer(broker, change=change) as last:
        wait_until(lambda: ready(channel) == 0, "an empty queue")
        last.wait_for("Waiting for orders")
        last.stop()
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        assert database.execute("SELECT count(*) FROM invoices").fetchone() == (100,)
    assert not drain(channel)


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
