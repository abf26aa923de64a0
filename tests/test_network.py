"""The network breaks or falls silent, and heartbeats: no order is lost, few come twice."""

import time
from collections import Counter
from functools import partial

from pika.adapters.blocking_connection import BlockingChannel as Channel

from rig.changes import orders_are, work_fails, work_takes, work_waits
from rig.network import PUBLISH, Network
from rig.node import LIMIT, Node, wait_until
from rig.orders import drain, ids, put_orders, ready_count
from rig.scripts import start_consumer, start_producer


def test_connection_that_often_breaks_leaves_at_most_a_copy_each(
    node: Node, channel: Channel
) -> None:
    orders = ids("A", 300)
    with Network(node.port) as network:
        network.cut_after = 10_000  # bytes: a part of the orders
        with start_producer(network, partial(orders_are, order_ids=orders)) as producer:
            assert producer.wait() == 0
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
        consumer.wait_for("ERROR")
        wait_until(lambda: ready_count(channel) == 2, "A is back in the queue")
        time.sleep(3)  # in which to be wrong
        assert network.connections == 1
        consumer.close_input()
        consumer.wait_for("Processed 'B'")
        consumer.stop()
    assert consumer.texts("^((?:begin|end) .)$") == ["begin A", "end A"] * 2 + ["begin B", "end B"]
    assert consumer.count(r"Received 'A' \(redelivered\)") == 1
    assert consumer.processed == ["A", "B"]


def test_connection_lost_while_it_stops_gives_the_order_back(node: Node, channel: Channel) -> None:
    put_orders(channel, "A")
    with Network(node.port) as network, start_consumer(network, work_waits) as consumer:
        consumer.wait_for("begin A")
        consumer.ask_to_stop()
        network.cut()
        consumer.wait_for("ERROR")
        consumer.close_input()
        assert consumer.wait() == 0
    assert consumer.worked == ["A"]
    assert consumer.processed == []
    wait_until(lambda: ready_count(channel) == 1, "the order is back")


def test_failure_of_work_is_logged_though_the_connection_is_lost(
    node: Node, channel: Channel
) -> None:
    put_orders(channel, "FAILS")
    failing = partial(work_fails, gate=True)
    with Network(node.port) as network, start_consumer(network, failing) as consumer:
        consumer.wait_for("begin FAILS")
        network.cut()
        consumer.wait_for("ERROR .*(Stream|Connection)")
        consumer.close_input()
        consumer.wait_for("RuntimeError: the card was declined")
        assert consumer.count("Received") == 1, "said before the next attempt"
        consumer.wait_for("Processed 'FAILS'")


def test_long_work_is_done_once(node: Node, channel: Channel) -> None:
    """RabbitMQ closes a connection that is silent for two heartbeats, here 6 s.

    B works on after the signal, so that it is also seen while the consumer stops.
    """
    put_orders(channel, "A", "B")
    url = node.url(query="?heartbeat=3")
    with start_consumer(url, partial(work_takes, seconds=10)) as consumer:
        consumer.wait_for("Received 'B'")
        consumer.stop()
    assert consumer.processed == ["A", "B"]
    assert consumer.count("ERROR") == 0
    assert not drain(channel)


def test_silent_network_is_found_out_by_the_heartbeat(node: Node, channel: Channel) -> None:
    orders = ids("B", 50)
    with Network(node.port) as network:
        url = network.url("?heartbeat=2")
        with start_consumer(url, work_waits) as consumer:
            consumer.wait_for("Waiting for orders")
            network.hold_up_at(PUBLISH)
            with start_producer(url, partial(orders_are, order_ids=orders)) as producer:
                assert network.held.wait(LIMIT)
                put_orders(channel, "A")
                consumer.wait_for("begin A")
                network.fall_silent()
                assert producer.wait() == 0
                consumer.wait_for("heartbeat")
                consumer.close_input()
                consumer.wait_for(r"Received 'A' \(redelivered\)")
                consumer.stop()
    for process in (producer, consumer):
        assert process.count("ERROR .*heartbeat") == 1, process
    count = drain(channel) + Counter(consumer.processed)
    assert set(count) == {"A", *orders}
    assert sum(count.values()) == 51, "B-00001 had not been sent"
