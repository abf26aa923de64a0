"""The network breaks or falls silent, and heartbeats: no order is lost, few come twice."""

from collections import Counter
from typing import Any

from rig.broker import Broker, wait_until
from rig.network import CONNECTION_CLOSE, PUBLISH, Network
from rig.orders import drain, line, names, put, ready
from rig.scripts import IMPATIENT, consumer, producer, telling_consumer


def test_connection_that_often_breaks_leaves_at_most_a_copy_each(
    broker: Broker, channel: Any
) -> None:
    """Each ends after 10 KB, a part of the orders: so no failure follows another at one order."""
    orders = names("A", 300)
    with Network(broker.port) as network:
        network.cut_after = 10_000
        with producer(network, lines=map(line, orders), change=IMPATIENT) as script:
            assert script.wait() == 0, script
        connections = len(network.connected)
    assert connections > 4 and len(script.lines) == 1 + 300 + connections - 1
    assert script.texts(r"\(line (\d+)\)$") == [str(number) for number in range(1, 301)]
    copies = drain(channel, "orders")
    assert set(copies) == set(orders)
    assert 300 <= sum(copies.values()) < 300 + connections


def test_cut_when_all_is_stored_is_no_failure(broker: Broker) -> None:
    with Network(broker.port) as network:
        network.cut_at = CONNECTION_CLOSE
        with producer(network) as script:
            assert script.wait() == 0, script


def test_lost_connection_waits_for_the_work_before_the_next_begins(
    broker: Broker, channel: Any
) -> None:
    put(channel, line("A"), line("B"))
    with Network(broker.port) as network, telling_consumer(network, 5) as script:
        script.wait_for("begin A")
        network.cut()
        script.wait_for("Processed 'B'")
        script.stop()
    assert script.texts("^((?:begin|end) .)$") == ["begin A", "end A"] * 2 + ["begin B", "end B"]
    assert script.out.index("end A") < script.out.index("Received 'A' (redelivered)")
    assert script.processed == ["A", "B"]


def test_connection_lost_while_it_stops_gives_the_order_back(broker: Broker, channel: Any) -> None:
    put(channel, line("A"))
    with Network(broker.port) as network, telling_consumer(network, 5) as script:
        script.wait_for("begin A")
        script.signal()
        network.cut()
        assert script.wait() == 0
    assert script.out.index("end A") < script.out.index("Stopped")
    assert script.processed == []
    wait_until(lambda: ready(channel) == 1, "the order is back")


def test_work_that_blocks_is_done_once(broker: Broker, channel: Any) -> None:
    """RabbitMQ closes a connection that is silent for two heartbeats, here 6 s; B is stopped."""
    put(channel, line("A"), line("B"))
    with consumer(broker.url(query="?heartbeat=3"), 10) as script:
        script.wait_for("Received 'B'")
        script.stop()
    assert script.processed == ["A", "B"] and not drain(channel)
    assert len(script.lines) == 6, "no connection was lost"


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
