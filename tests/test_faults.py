"""A queue is deleted, RabbitMQ stops, dies or lacks memory: nothing is lost."""

from signal import SIGTERM

from rig.network import Network
from rig.node import connect
from rig.orders import SAMPLE_IDS, counts, ids, order_json, put
from rig.processes import CONSUMER, PRODUCER, PRODUCER_OF_MANY, WORKER, Program, consume
from rig.waiting import LIMIT, wait_until


def test_deleted_queue_is_told_and_declared_again(url, channel):
    with Program(CONSUMER, url, must_say="was the queue deleted") as consumer:
        consumer.wait_for("Waiting for orders")
        assert counts(channel) == (0, 1), "it consumes"
        channel.queue_delete("orders")
        consumer.wait_for("Waiting for orders", times=2)
    assert consumer.count("ERROR") == 1


def test_rabbitmq_that_restarts_or_is_killed_loses_nothing(own_node):
    """At the kill one order is worked on, 20 wait, and the 50th of 100 is on its way.

    The restart comes first: RabbitMQ before 4.3, if it is killed, can lose a queue that is younger
    than two seconds.
    """
    url, waiting, sent = own_node.url(), ids("WAITS", 20), ids("SENT", 100)
    with (
        Network(url, sent={b"SENT-00050": own_node.end}) as network,
        Program(WORKER, url, must_say="RabbitMQ at") as consumer,
    ):
        consumer.wait_for("Waiting for orders")
        own_node.end(SIGTERM)
        consumer.wait_for("CONNECTION_FORCED")
        own_node.start()
        consumer.wait_for("Waiting for orders", times=2)
        with connect(url) as connection:
            put(connection.channel(), order_json("CURRENT", waits=True), *map(order_json, waiting))
        consumer.wait_for("Received 'CURRENT'")
        many = ["SENT", len(sent)]
        with Program(PRODUCER_OF_MANY, network.url, *many, must_say="RabbitMQ at") as producer:
            own_node.process.wait(LIMIT)
            consumer.let_work_end()
            own_node.start()
            assert producer.wait(3 * LIMIT) == 0
        consumer.wait_for("Processed 'SENT-00100'")
    assert producer.orders("Stored") == sent
    assert producer.count("WrongState") == 0, "it tells the cause"
    assert consumer.orders("Received") == ["CURRENT", "CURRENT", *waiting, *sent]


def test_producer_waits_in_silence_while_rabbitmq_lacks_memory(own_node):
    """It stores each order once, later. A consumer goes on meanwhile."""
    url, watermark = own_node.url(), ["rabbitmqctl", "set_vm_memory_high_watermark"]
    with connect(url) as connection:
        channel = connection.channel()
        put(channel, order_json("A"))
        own_node.command(*watermark, "absolute", "1MB")
        with Network(url) as network, Program(PRODUCER, network.url) as producer:
            wait_until(lambda: b"ORD-001" in network.sent, "the first order to be published")
            consume(WORKER, url, until="Processed 'A'")
            assert producer.log == ""
            own_node.command(*watermark, "0.6")
            assert producer.wait() == 0
        assert producer.orders("Stored") == SAMPLE_IDS
        assert counts(channel) == (5, 0)
