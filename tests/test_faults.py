"""A queue is deleted, RabbitMQ stops, dies or lacks memory: nothing is lost."""

from signal import SIGTERM

import pytest

from rig.network import Network
from rig.node import LIMIT, connect, wait_until
from rig.orders import SAMPLE_IDS, counts, ids, order_json, put
from rig.processes import CONSUMER, PRODUCER, PRODUCER_OF_MANY, WORKER, Program, consume

LONG = pytest.mark.timeout(300)  # as its own limits add up to more than the usual one


def test_deleted_queue_is_told_and_declared_again(url, channel):
    told = "was the queue deleted"
    with Program(CONSUMER, url, must_say=told) as consumer:
        consumer.wait_for("Waiting for orders")
        wait_until(lambda: counts(channel) == (0, 1), "the consumer to subscribe")
        channel.queue_delete("orders")
        consumer.wait_for("Waiting for orders", times=2)
    assert consumer.count("ERROR") == 1


@LONG
@pytest.mark.xdist_group("own node")
def test_rabbitmq_that_restarts_or_is_killed_loses_nothing(own_node):
    """At the kill one order is worked on, 20 wait, and the 50th of 100 is on its way.

    The restart comes first: RabbitMQ before 4.3, if it is killed, can lose a queue that is younger
    than two seconds.
    """
    waiting, sent = ids("WAITS", 20), ids("SENT", 100)
    with (
        Network(own_node.url(), hold_at=b"SENT-00050") as network,
        Program(WORKER, own_node.url(), must_say="RabbitMQ at") as consumer,
    ):
        consumer.wait_for("Waiting for orders")
        own_node.end(SIGTERM)
        consumer.wait_for("CONNECTION_FORCED")
        own_node.start()
        consumer.wait_for("Waiting for orders", times=2)
        with connect(own_node.url()) as connection:
            put(connection.channel(), order_json("CURRENT", waits=True), *map(order_json, waiting))
        consumer.wait_for("Received 'CURRENT'")
        with Program(
            PRODUCER_OF_MANY, network.url, "SENT", 100, 1_000, must_say="RabbitMQ at"
        ) as producer:
            wait_until(network.held.is_set, "the 50th order on its way")
            own_node.end()
            network.go_on.set()
            consumer.let_work_end()
            own_node.start()
            assert producer.wait(3 * LIMIT) == 0
        consumer.wait_for("Processed 'SENT-00100'")
    assert producer.orders("Stored") == sent
    assert producer.count("WrongState") == 0, "it tells the cause"
    assert consumer.orders("Received") == ["CURRENT", "CURRENT", *waiting, *sent]


@LONG
@pytest.mark.xdist_group("own node")
def test_producer_waits_in_silence_while_rabbitmq_lacks_memory(own_node):
    """And stores each order once, later. A consumer goes on meanwhile."""
    with connect(own_node.url()) as connection:
        channel = connection.channel()
        channel.queue_delete("orders")
        put(channel, order_json("A"))
        limit = ["rabbitmqctl", "set_vm_memory_high_watermark"]
        own_node.command(*limit, "absolute", "1MB")
        with Network(own_node.url()) as network, Program(PRODUCER, network.url) as producer:
            wait_until(lambda: b"ORD-001" in network.sent, "the first order to be published")
            consume(WORKER, own_node.url(), until="Processed 'A'")
            assert producer.records == []
            own_node.command(*limit, "0.6")
            assert producer.wait() == 0
        assert producer.orders("Stored") == SAMPLE_IDS
        assert counts(channel) == (5, 0)
