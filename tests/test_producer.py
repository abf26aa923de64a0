"""producer.py against a real RabbitMQ: as a process, as a user runs it, or its functions."""

import json
from decimal import Decimal

import pytest

import producer
from rig.network import CONNECTION_CLOSE, Network
from rig.node import connect, wait_until
from rig.orders import SAMPLE_IDS, ids, take_all, take_orders
from rig.processes import PRODUCER, PRODUCER_OF_MANY, Program, publish

FIVE = """\
{"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"}
{"order_id": "ORD-002", "customer": "Анна Ким", "amount": 1249.5, "status": "pending"}
{"order_id": "ORD-003", "customer": "John Smith", "amount": 320, "status": "pending"}
{"order_id": "ORD-004", "customer": "Пётр Орлов", "amount": 7800, "status": "pending"}
{"order_id": "ORD-005", "customer": "Emma Brown", "amount": 150, "status": "pending"}"""

# Five orders


def test_five_orders_are_stored_as_persistent_messages(url, channel):
    process = publish(PRODUCER, url)
    assert process.records == [f"INFO Stored {order_id}" for order_id in SAMPLE_IDS]
    for expected in FIVE.split("\n"):
        _, properties, body = channel.basic_get("orders", auto_ack=True)
        assert body.decode() == expected
        given = {name: value for name, value in vars(properties).items() if value is not None}
        assert given == {"delivery_mode": 2}


def test_it_does_not_wait_when_all_are_stored(slept):
    producer.main()
    assert slept == []


# "Stored" is said of orders that RabbitMQ has confirmed, and of no others


@pytest.mark.xdist_group("full")
def test_refused_orders_are_published_again_until_there_is_room(full_url):
    with (
        connect(full_url) as connection,
        Program(PRODUCER_OF_MANY, full_url, "A", 300, 30, must_say="NackError") as process,
    ):
        process.wait_for("NackError", times=2)
        bodies = take_all(connection.channel())
        assert process.wait() == 0
        bodies += take_all(connection.channel())
    assert process.orders("Stored") == ids("A", 300)
    assert [json.loads(body)["order_id"] for body in bodies] == ids("A", 300)


def test_order_for_a_deleted_queue_is_published_again(url, channel):
    with Network(url, hold_at=b"ORD-001") as network:
        with Program(PRODUCER, network.url, must_say="UnroutableError") as process:
            wait_until(network.held.is_set, "the first order on its way")
            channel.queue_delete("orders")
            network.go_on.set()
            assert process.wait() == 0
    assert process.count("ERROR") == 1
    assert take_orders(channel) == dict.fromkeys(SAMPLE_IDS, 1)


def test_connection_that_breaks_after_the_last_confirmation_is_not_a_failure(url, channel):
    """With one attempt, so that a second one cannot hide a failure."""
    with Network(url, cut_at=CONNECTION_CLOSE) as network:
        publish(PRODUCER_OF_MANY, network.url, "A", 5, 1, must_say="StreamLostError")
        assert network.cut_at == b"", "it was cut"
    assert take_orders(channel) == dict.fromkeys(ids("A", 5), 1)


# publish(), which README.md shows for orders of one's own


@pytest.mark.parametrize("bad", [{"customer": "B"}, {"order_id": "B", "amount": Decimal(5)}])
def test_publish_takes_orders_out_of_the_list_as_they_are_stored(bad, channel, slept, caplog):
    """And publishes no order that has no order_id, or that is no JSON."""
    order = {"order_id": "A", "customer": "B", "amount": 5, "status": "new", "items": ["x"]}
    orders = [order, bad]
    with pytest.raises((KeyError, TypeError)):
        producer.publish(orders)
    assert orders == [bad]
    assert [json.loads(body) for body in take_all(channel)] == [order]
    assert caplog.messages == ["Stored A"]
