"""A queue is deleted, RabbitMQ goes down or lacks memory: nothing is lost."""

from signal import SIGTERM

import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

from rig.network import PUBLISH, Network
from rig.node import LIMIT, Node, connect, wait_until
from rig.orders import SAMPLE_IDS, counts, ids, order_json, put, put_orders
from rig.processes import CONSUMER, PRODUCER, PRODUCER_OF_MANY, WORKER, Program


def test_deleted_queue_is_told_and_declared_again(url: str, channel: Channel) -> None:
    with Program(CONSUMER, url, errors="Cannot consume .*was the queue deleted") as consumer:
        consumer.wait_for("Waiting for orders")
        wait_until(lambda: counts(channel) == (0, 1), "the consumer to subscribe")
        channel.queue_delete("orders")
        consumer.wait_for("Waiting for orders", times=2)
        consumer.stop()


@pytest.mark.xdist_group("own node")
@pytest.mark.timeout(300)  # its own limits add up to more than the usual one
def test_rabbitmq_that_is_killed_loses_nothing(own_node: Node) -> None:
    """One order is being worked on, 20 wait, and the 50th of 100 is on its way."""
    waiting, sent = ids("WAITS", 20), ids("SENT", 100)
    with connect(own_node.url()) as connection:
        put(connection.channel(), order_json("CURRENT", waits=True), *map(order_json, waiting))
    own_node.end(SIGTERM)  # because RabbitMQ before 4.3, if it is killed, can lose a queue that is
    own_node.start()  # younger than two seconds
    with (
        Network(own_node.url(), hold_at=PUBLISH, hold_number=50) as network,
        Program(WORKER, own_node.url(), errors="Cannot consume") as consumer,
        Program(PRODUCER_OF_MANY, network.url, "SENT", 100, 60, errors="Cannot") as producer,
    ):
        consumer.wait_for("Received 'CURRENT'")
        assert network.held.wait(LIMIT)
        own_node.end()
        network.go_on.set()
        consumer.let_work_end()
        own_node.start()
        assert producer.wait(3 * LIMIT) == 0
        consumer.wait_for("Processed 'SENT-00100'")
        consumer.stop()
    assert producer.orders("Stored") == sent
    assert consumer.orders("Processed") == ["CURRENT", "CURRENT", *waiting, *sent]


@pytest.mark.xdist_group("own node")
def test_producer_waits_in_silence_while_rabbitmq_lacks_memory(own_node: Node) -> None:
    """And stores each order once, later. A consumer goes on meanwhile."""
    with connect(own_node.url()) as connection:
        channel = connection.channel()
        channel.queue_delete("orders")
        put_orders(channel, "A")
        own_node.command("rabbitmqctl", "set_vm_memory_high_watermark", "absolute", "1MB")
        with Network(own_node.url()) as network, Program(PRODUCER, network.url) as producer:
            wait_until(lambda: PUBLISH in network.sent, "the first order to be published")
            with Program(WORKER, own_node.url()) as consumer:
                consumer.wait_for("Processed 'A'")
                consumer.stop()
            assert producer.lines == []
            own_node.command("rabbitmqctl", "set_vm_memory_high_watermark", "0.6")
            assert producer.wait() == 0
        assert producer.orders("Stored") == SAMPLE_IDS
        assert counts(channel) == (5, 0)
