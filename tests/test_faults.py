"""Pull every plug and count: no order is lost, and few come twice."""

import contextlib
import random
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rig.broker import Broker, let_new_queues_settle, running, wait_until
from rig.network import PUBLISH, Network
from rig.orders import drain, line, names, put, ready
from rig.scripts import PATIENT, ROOT, consumer, producer, telling_consumer

# A consumer is killed


def test_twelve_consumers_killed_at_random_moments_lose_nothing(
    broker: Broker, channel: Any, draw: random.Random
) -> None:
    orders = names("A", 600)
    put(channel, *map(line, orders))
    done: Counter[str] = Counter()
    for number in range(12):
        with telling_consumer(broker, 0.03) as victim:
            # The moment falls anywhere into an order of 30 ms.
            victim.wait_for("end", times=draw.randint(1, 12))
            victim.process.kill()
        done.update(victim.texts("end (.*)"))
        assert len(done) < 600, f"no kill after {number} fell into the middle"
    with telling_consumer(broker) as one, telling_consumer(broker) as other:
        wait_until(lambda: ready(channel) == 0, "an empty queue")
        for each in (one, other):
            each.wait_for("Waiting for orders")
            each.stop()
    done.update(one.texts("end (.*)") + other.texts("end (.*)"))
    assert set(done) == set(orders)
    assert ready(channel) == ready(channel, "orders.dead") == 0
    assert sum(done.values()) <= 612, "a kill leaves one order to do twice"


def test_once_only_of_the_readme_brings_each_result_once(
    broker: Broker, channel: Any, tmp_path: Path, draw: random.Random
) -> None:
    """Each order is there six times, and six consumers are killed."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search("### Once only.*?```python\n(.*?)```", readme, re.S)
    assert code
    change = code[1].replace("shop.db", f"{tmp_path}/shop.db")
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
    assert ready(channel) == ready(channel, "orders.dead") == 0


# The broker is stopped or killed

SENT, WAITED = names("SENT", 500), names("WAITED", 100)


@pytest.mark.parametrize("end", [Broker.stop, Broker.kill], ids=["stopped", "killed"])
def test_broker_that_goes_down_with_everything_in_flight(
    tmp_path: Path, end: Callable[[Broker], Any]
) -> None:
    """One order is just done, one in hand, 100 wait, and more are being sent."""
    with running(Broker(tmp_path)) as node:
        with node.connect() as connection:
            put(connection.channel(), line("DONE"))
            let_new_queues_settle()
            with consumer(node) as first:
                first.wait_for("Processed 'DONE'")
                first.stop()
            put(connection.channel(), *map(line, ["IN-HAND", *WAITED]))
        time.sleep(1)  # from now on, DONE must not come again
        with Network(node.port) as network:
            network.pause = 0.02  # or the sender is done too early
            with producer(network, lines=map(line, SENT), change=PATIENT) as sender:
                sender.wait_for("Stored", 50)
                with consumer(node, 5) as worker:
                    worker.wait_for("Received 'IN-HAND':")
                    assert not sender.ended() and not worker.processed, "it must be in mid-work"
                    end(node)
                    network.pause = 0
                    node.start()
                    assert sender.wait(120) == 0, sender
                    worker.wait_for(r"Received 'IN-HAND' \(redelivered\): ")
                    worker.stop()
        with node.connect() as connection:
            left = drain(connection.channel())
            assert ready(connection.channel(), "orders.dead") == 0
    assert sender.stored == SENT and sender.seen("(Error|ConnectionClosed|ConnectionReset)")
    assert "DONE" not in left and worker.processed.count("IN-HAND") == 1
    # A killed broker may give one that waited out before it gives IN-HAND back.
    everything = left + Counter(worker.processed)
    assert set(everything) == {"IN-HAND", *WAITED, *SENT}
    twice = [order for order, number in everything.items() if number > 1]
    assert len(twice) <= 1 and set(twice) <= set(SENT), "the order in doubt"


# The network fails


def test_network_gone_silent_is_found_out_by_the_heartbeat(broker: Broker, channel: Any) -> None:
    orders = names("B", 50)
    with Network(broker.port) as network:
        url = network.url("?heartbeat=2")
        with consumer(url, 5) as worker:
            worker.wait_for("Waiting for orders")
            network.hold_up_at(PUBLISH)
            with producer(url, lines=map(line, orders)) as sender:
                assert network.held.wait(60)
                put(channel, line("A"))
                worker.wait_for("Received 'A':")
                network.fall_silent()
                assert sender.wait() == 0, sender
                worker.wait_for(r"Received 'A' \(redelivered\)")
                worker.stop()
    for script in (sender, worker):
        assert len(script.seen("(heartbeat)")) == 1, script
    count = drain(channel) + Counter(worker.processed)
    assert set(count) == {"A", *orders} and sum(count.values()) <= 52
