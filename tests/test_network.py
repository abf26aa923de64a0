"""Connections that break, and heartbeats: no order is lost, few come twice."""

import time
from functools import partial

from pika.adapters.blocking_connection import BlockingChannel as Channel

from rig.changes import work_takes, work_waits
from rig.network import Network
from rig.node import Node, wait_until
from rig.orders import drain, ids, put_orders, ready_count
from rig.scripts import run_producer, start_consumer


def test_connection_that_often_breaks_leaves_at_most_a_copy_each(
    node: Node, channel: Channel
) -> None:
    orders = ids("A", 300)
    with Network(node.port) as network:
        network.cut_after = 10_000  # bytes: a part of the orders
        producer = run_producer(network, orders=orders)
    assert network.connections > 4
    assert producer.count("ERROR") == network.connections - 1
    assert producer.stored == orders
    copies = drain(channel, "orders")
    assert set(copies) == set(orders)
    assert sum(copies.values()) < 300 + network.connections


def test_connection_lost_during_the_work_waits_for_its_end(node: Node, channel: Channel) -> None:
    """Only then does the consumer connect again: no work begins beside another."""
    put_orders(channel, "A", "B")
    with Network(node.port) as network, start_consumer(network, work_waits) as consumer:
        consumer.wait_for("begin A")
        network.cut()
        wait_until(lambda: ready_count(channel) == 2, "A is back in the queue")
        time.sleep(3)  # in which to be wrong
        assert network.connections == 1
        consumer.close_input()
        consumer.wait_for("Processed 'B'")
        consumer.stop()
    assert consumer.texts("^((?:begin|end) .)$") == ["begin A", "end A"] * 2 + ["begin B", "end B"]
    assert consumer.count("ERROR") == 1
    assert consumer.redelivered == ["A"]
    assert consumer.processed == ["A", "B"]


def test_long_work_is_done_once(node: Node, channel: Channel) -> None:
    """RabbitMQ closes a connection that is silent for two heartbeats, here 4 s.

    B works on after the signal, so that it is also seen while the consumer stops.
    """
    put_orders(channel, "A", "B")
    url = node.url(query="?heartbeat=2")
    with start_consumer(url, partial(work_takes, seconds=8)) as consumer:
        consumer.wait_for("begin B")
        consumer.stop()
    assert consumer.processed == ["A", "B"]
    assert consumer.count("ERROR") == 0
    assert not drain(channel)
