"""producer.py against a real RabbitMQ: as a process, as a user runs it, or its functions."""

import json
from decimal import Decimal

import pika
import pytest

import producer
from rig.network import BASIC_ACK, CHANNEL_OPEN, CONNECTION_CLOSE, Network, cut
from rig.node import connect
from rig.orders import SAMPLE_IDS, ids, put, take_all, take_ids
from rig.processes import PRODUCER, PRODUCER_OF_MANY, Program, run_producer

FIVE = """\
{"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"}
{"order_id": "ORD-002", "customer": "Анна Ким", "amount": 1249.5, "status": "pending"}
{"order_id": "ORD-003", "customer": "John Smith", "amount": 320, "status": "pending"}
{"order_id": "ORD-004", "customer": "Пётр Орлов", "amount": 7800, "status": "pending"}
{"order_id": "ORD-005", "customer": "Emma Brown", "amount": 150, "status": "pending"}"""


def test_five_orders_are_stored_as_persistent_messages(url, channel):
    process = run_producer(PRODUCER, url)
    assert process.records == [f"INFO Stored {order_id}" for order_id in SAMPLE_IDS]
    put(channel)  # RabbitMQ refuses this if the queue is not a durable one
    for expected in FIVE.split("\n"):
        _, properties, body = channel.basic_get("orders", auto_ack=True)
        assert body.decode() == expected
        assert properties == pika.BasicProperties(delivery_mode=2)


def test_it_does_not_wait_when_all_are_stored(slept):
    producer.main()
    assert slept == []


def test_refused_orders_are_published_again_until_there_is_room(url, channel):
    """The queue takes 20 orders (conftest.py)."""
    with Program(PRODUCER_OF_MANY, url, "A", 30, must_say="NackError") as process:
        process.wait_for("NackError", times=2)
        taken = take_ids(channel)
        assert process.wait() == 0
    assert process.orders("Stored") == taken + take_ids(channel) == ids("A", 30)


def test_order_for_a_deleted_queue_is_published_again(url, channel):
    """The queue is deleted in the first connection, and in the second one."""

    def delete_the_queue():
        with connect(url) as connection:
            connection.channel().queue_delete("orders")

    faults = {b"ORD-001": delete_the_queue, b"ORD-003": delete_the_queue}
    with Network(url, sent=faults) as network:
        process = run_producer(PRODUCER, network.url, must_say="UnroutableError")
    assert process.count("ERROR") == 2
    assert take_ids(channel) == SAMPLE_IDS[2:]


def test_order_whose_confirmation_is_lost_is_stored_twice(url, channel):
    with Network(url, answered={BASIC_ACK: cut}) as network:
        process = run_producer(PRODUCER, network.url, must_say="RabbitMQ at")
    assert process.orders("Stored") == SAMPLE_IDS
    assert take_ids(channel) == [SAMPLE_IDS[0], *SAMPLE_IDS]


def test_connection_that_breaks_after_the_last_confirmation_is_not_used_again(url, channel):
    with Network(url, sent={CONNECTION_CLOSE: cut}) as network:
        run_producer(PRODUCER, network.url, must_say="StreamLostError")
        assert network.sent.count(b"AMQP") == network.sent.count(CHANNEL_OPEN) == 1
    assert take_ids(channel) == SAMPLE_IDS


def test_publish_takes_orders_out_of_the_list_as_they_are_stored(channel, slept, caplog):
    """The caller gets the exception of an order that has no order_id, or is no JSON."""
    order = {"order_id": "A", "customer": "B", "amount": 5, "status": "new", "items": ["x"]}
    nameless = {"customer": "B"}
    bad = {"order_id": "C", "amount": Decimal(5)}
    orders = [order, nameless, bad]
    given = [dict(order), dict(nameless)]
    for error in [KeyError, TypeError]:
        with pytest.raises(error):
            producer.publish(orders)
        assert orders == [bad]
    assert [json.loads(body) for body in take_all(channel)] == given
    assert caplog.messages == ["Stored A"]
