"""Pull every plug and count: no order is lost, and few come twice."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import running
from rig.broker import Broker, let_new_queues_settle, wait_until
from rig.network import PUBLISH, Network
from rig.notes import Notes
from rig.orders import drain, line, names, put, ready, write_orders
from rig.scripts import changed, consumer, processed, producer

# A consumer is killed


def test_order_of_a_consumer_killed_in_mid_order_goes_to_another(broker: Broker, channel: Any) -> None:
    put(channel, line("A"))
    with consumer(broker, 600) as victim:
        victim.wait_for("Received A:")
        assert ready(channel) == 0
        victim.process.kill()
    with consumer(broker) as other:
        other.wait_for(r"Received A \(redelivered\): ")
        other.wait_for("Processed A")
        other.stop()
    assert ready(channel) == ready(channel, "orders.dead") == 0


def test_twelve_consumers_killed_at_random_moments_lose_nothing(
    broker: Broker, channel: Any, tmp_path: Path
) -> None:
    seed = random.randrange(1_000_000)
    print("seed", seed)
    draw = random.Random(seed)
    notes, orders = Notes(tmp_path / "notes"), names("A", 300)
    put(channel, *map(line, orders))
    for number in range(12):
        with notes.consumer(broker.url(), 0.03) as victim:
            victim.wait_for("Received")
            # The moment falls anywhere into an order of 30 ms.
            enough = len(notes.count()) + draw.randint(0, 12)
            wait_until(lambda: len(notes.count()) >= enough, "some orders done")  # noqa: B023
            victim.process.kill()
        assert len(notes.count()) < 300, f"no kill after {number} fell into the middle"
    with notes.consumer(broker.url()), notes.consumer(broker.url()):
        count = notes.wait_for(orders)
        wait_until(lambda: ready(channel) == 0, "an empty queue")
    assert set(count) == set(orders)
    assert ready(channel, "orders.dead") == 0
    assert sum(count.values()) <= 312, "a kill leaves one order to do twice"


# The broker is stopped or killed

SENT, WAITED = names("SENT", 500), names("WAITED", 100)


@pytest.fixture(scope="module")
def mortal_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The node that the next test stops and kills."""
    with running(Broker(tmp_path_factory.mktemp("mortal"))) as node:
        with producer(node) as first:
            assert first.wait() == 0
        let_new_queues_settle()
        yield node


def waiting(node: Broker) -> int:
    """Return how many orders wait on the node, without a connection that stays."""
    with node.connect() as connection:
        return ready(connection.channel())


@pytest.mark.parametrize("end", [Broker.stop, Broker.kill], ids=["stopped", "killed"])
def test_broker_that_goes_down_with_everything_in_flight(
    mortal_node: Broker, tmp_path: Path, end: Callable[[Broker], Any]
) -> None:
    """One order is just done, one in hand, 100 wait, and more are being sent."""
    node = mortal_node
    with node.connect() as connection:
        connection.channel().queue_purge("orders")
        put(connection.channel(), line("DONE"))
        with consumer(node) as first:
            first.wait_for("Processed DONE")
            first.stop()
        put(connection.channel(), *map(line, ["IN-HAND", *WAITED]))
    time.sleep(1)  # from now on, DONE must not come again
    file = write_orders(tmp_path / "sent", SENT)
    with Network(node.port) as network:
        network.pause = 0.02  # or the sender is done too early
        with changed("patient_producer", file, url=network.url()) as sender:
            wait_until(lambda: waiting(node) >= 150, "some orders stored")
            with consumer(node, 5) as worker:
                worker.wait_for("Received IN-HAND:")
                assert not sender.ended() and not processed(worker), "it must be in mid-work"
                end(node)
                network.pause = 0
                worker.wait_for("trying again every second")
                node.start()
                assert sender.wait(120) == 0, sender
                worker.wait_for(r"Received IN-HAND \(redelivered\): ")
                worker.stop()
    sender.wait_for("500 of 500 orders stored")
    assert len(worker.seen("(Waiting for orders)")) == 2
    with node.connect() as connection:
        left = drain(connection.channel())
        assert ready(connection.channel(), "orders.dead") == 0
    assert "DONE" not in left and processed(worker).count("IN-HAND") == 1
    # A killed broker may give one that waited out before it gives IN-HAND back.
    everything = left + Counter(processed(worker))
    assert set(everything) == {"IN-HAND", *WAITED, *SENT}
    twice = [order for order, number in everything.items() if number > 1]
    assert len(twice) <= 1 and set(twice) <= set(SENT), "the order in doubt"


# The network fails


def test_connections_closed_by_the_broker_are_made_again(
    broker: Broker, channel: Any, tmp_path: Path
) -> None:
    put(channel, line("A"))
    orders = names("B", 50)
    with Network(broker.port) as network, consumer(broker, 6) as worker:
        network.hold_up_at(PUBLISH)
        worker.wait_for("Received A")
        file = write_orders(tmp_path / "orders", orders)
        with changed("patient_producer", file, url=network.url()) as sender:
            assert network.held.wait(60)
            broker.rabbitctl_output("close_all_connections", "maintenance")
            network.release()
            assert sender.wait() == 0, sender
        worker.wait_for("maintenance.*; trying again every second")
        wait_until(lambda: worker.out.count("Waiting for orders") == 2, "it is back")
    assert "maintenance" in sender.out
    done = processed(worker)  # A, if rabbitmqctl took longer than the work on it
    with broker.connect() as connection:
        wait_until(lambda: waiting(broker) >= 51 - len(done), "all orders to be back")
        count = drain(connection.channel()) + Counter(done)
    assert set(count) == {"A", *orders} and sum(count.values()) <= 52


def test_network_gone_silent_is_found_out_by_the_heartbeat(
    broker: Broker, channel: Any, tmp_path: Path
) -> None:
    orders = names("B", 50)
    with Network(broker.port) as network:
        url = network.url("?heartbeat=2")
        with consumer(broker, 5, url=url) as worker:
            worker.wait_for("Waiting for orders")
            network.hold_up_at(PUBLISH)
            file = write_orders(tmp_path / "orders", orders)
            with producer(broker, file, url=url) as sender:
                assert network.held.wait(60)
                put(channel, line("A"))
                worker.wait_for("Received A:")
                network.fall_silent()
                assert sender.wait() == 0, sender
                worker.wait_for(r"Received A \(redelivered\)")
                worker.stop()
    for script in (sender, worker):
        assert len(script.seen("(heartbeat).*; trying again")) == 1, script
    count = drain(channel) + Counter(processed(worker))
    assert set(count) == {"A", *orders} and sum(count.values()) <= 52


def test_slow_network_only_takes_longer(broker: Broker, channel: Any) -> None:
    with Network(broker.port) as network:
        # 5 KB/s: the order takes longer than two heartbeats.
        network.chunk, network.pause = 512, 0.1
        order = line("A", customer="x" * 25_000)
        with producer(broker, "-", stdin=order, url=network.url("?heartbeat=2")) as sender:
            assert sender.wait() == 0, sender
    assert sender.arrivals[-1] - sender.started > 5
    assert len(sender.lines) == 2, "no connection was lost"
    assert drain(channel) == {"A": 1}
