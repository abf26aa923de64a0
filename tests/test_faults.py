"""Connections that break, queues that are deleted, a RabbitMQ that goes down: nothing is lost."""

import time
from collections import Counter
from pathlib import Path

from pika.adapters.blocking_connection import BlockingChannel as Channel

from rig.network import BASIC_ACK, Network
from rig.node import LIMIT, Node, running_node, wait_until
from rig.orders import consumer_count, ids, put_orders, ready_count
from rig.processes import start_consumer, start_producer


def test_order_is_processed_again_if_its_acknowledgement_is_lost(
    node: Node, channel: Channel
) -> None:
    put_orders(channel, "A")
    with Network(node.port) as network:
        network.cut_at = BASIC_ACK
        with start_consumer(network, errors="Cannot consume", work="nothing") as consumer:
            consumer.wait_for("Processed 'A'", times=2)
            consumer.stop()
    assert consumer.received == ["A", "A"]
    assert consumer.redelivered == ["A"]
    assert consumer.count("ERROR") == 1
    assert ready_count(channel) == 0


def test_deleted_queue_is_told_and_declared_again(node: Node, channel: Channel) -> None:
    with start_consumer(node, errors="was the queue deleted") as consumer:
        consumer.wait_for("Waiting for orders")
        wait_until(lambda: consumer_count(channel) == 1, "the consumer to subscribe")
        channel.queue_delete("orders")
        consumer.wait_for("ERROR Cannot consume from RabbitMQ at .*was the queue deleted")
        consumer.wait_for("Waiting for orders", times=2)
        consumer.stop()


def test_rabbitmq_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """One order is being worked on, 100 wait, and 1,500 are being published."""
    waiting, sent = ids("WAITS", 100), ids("SENT", 1_500)
    with running_node(tmp_path) as node:
        with node.connect() as connection:
            put_orders(connection.channel(), "CURRENT", *waiting)
        time.sleep(5)  # a RabbitMQ killed in a queue's first two seconds can lose the queue
        with start_consumer(node, errors="Cannot consume", work="gate") as consumer:
            consumer.wait_for("Received 'CURRENT'")
            many = {"prefix": "SENT", "count": 1_500, "attempts": 1_000}
            with start_producer(node, errors="Cannot publish", **many) as producer:
                producer.wait_for("Stored", times=50)
                node.kill()
                consumer.open_gate()
                consumer.wait_for("ERROR")
                node.start()
                assert producer.wait(3 * LIMIT) == 0
            consumer.wait_for("Processed 'SENT-01500'")
            consumer.stop()
    assert producer.count("ERROR") >= 1, "it was amid its work"
    assert producer.stored == sent
    assert consumer.received.count("CURRENT") == 2
    times = Counter(consumer.processed)
    assert set(times) == {"CURRENT", *waiting, *sent}
    assert times.total() <= len(times) + 2, "CURRENT, and the order in doubt"
