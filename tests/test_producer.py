"""producer.py against a real RabbitMQ: as a process, as a user runs it, or its functions."""

from decimal import Decimal
from unittest.mock import Mock

import pika
import pytest
from pika import exceptions

import producer
from rig.network import BASIC_ACK, BASIC_NACK, CONNECTION_CLOSE, Network
from rig.node import connect
from rig.orders import SAMPLE_IDS, new_order, put, take_ids
from rig.processes import IMPORTER, PRODUCER, Program

ERRORS = [exceptions.AMQPConnectionError("why"), exceptions.ChannelClosedByBroker(406, "why")]
ERRORS += [exceptions.UnroutableError(["why"]), exceptions.NackError(["why"]), OSError("why")]
NOTE = "Ж" * 1_000
FIVE = [new_order(order_id, note=NOTE) for order_id in "BABCD"]  # one comes twice
SAMPLE = """\
{"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"}
{"order_id": "ORD-002", "customer": "Анна Ким", "amount": 1249.5, "status": "pending"}
{"order_id": "ORD-003", "customer": "John Smith", "amount": 320, "status": "pending"}
{"order_id": "ORD-004", "customer": "Пётр Орлов", "amount": 7800, "status": "pending"}
{"order_id": "ORD-005", "customer": "Emma Brown", "amount": 150, "status": "pending"}
"""


def test_five_orders_are_stored_as_persistent_messages(url, channel):
    with Program(PRODUCER, url) as process:
        assert process.wait() == 0
    connecting = f"INFO Connecting to RabbitMQ at {url.split('@')[1]} (it may be starting)"
    confirmed = [f"INFO RabbitMQ confirmed {body}" for body in SAMPLE.splitlines()]
    assert process.records == [connecting, *confirmed]
    put(channel)  # RabbitMQ refuses this if the queue is not a durable one
    for expected in SAMPLE.splitlines():
        _, properties, body = channel.basic_get("orders", auto_ack=True)
        assert body.decode() == expected
        assert properties == pika.BasicProperties(delivery_mode=2)


def test_publish_leaves_log_and_signals_to_its_caller(url):
    with Program(IMPORTER, url) as process:
        assert process.wait() == 0
    assert process.records == ["INFO Published"]


@pytest.mark.parametrize("at_the_end", [False, True])
def test_connection_that_breaks_ends_it(at_the_end, url, channel):
    """An order can be stored although nobody was told so: trying again would store it twice."""
    key, confirmed, stored = (CONNECTION_CLOSE, 5, 5) if at_the_end else (BASIC_ACK, 0, 1)
    failed = "^ERROR Failed: (?!ConnectionWrongState)"  # the cause, not what fails after it
    with Network(url, key) as network, Program(PRODUCER, network.url, may_say=failed) as process:
        assert process.wait() == 1
    assert process.count("Connecting") == process.count(failed) == 1
    assert process.count("RabbitMQ confirmed") == confirmed
    assert take_ids(channel) == SAMPLE_IDS[:stored]


def test_refused_order_raises(node, url, channel, publish, caplog):
    """The queue takes three orders; the log has them whole. Those after the fourth are not sent."""
    taken = []
    limit = '{"max-length":3,"overflow":"reject-publish"}'
    node.rabbitmqctl("set_policy", "limit", "^orders$", limit)
    try:
        with Network(url, BASIC_NACK, lambda _: taken.extend(take_ids(channel))) as network:
            with pytest.raises(exceptions.NackError):
                publish(network.url, FIVE)
    finally:
        node.rabbitmqctl("clear_policy", "limit")
    assert caplog.text.count("RabbitMQ confirmed") == caplog.text.count(NOTE) == 3
    assert (taken, take_ids(channel)) == (["B", "A", "B"], [])


def test_order_for_a_deleted_queue_raises(url, publish, caplog):
    def delete_the_queue(network):
        with connect(url) as connection:
            connection.channel().queue_delete("orders")

    with (
        Network(url, BASIC_ACK, delete_the_queue) as network,
        pytest.raises(exceptions.UnroutableError),
    ):
        publish(network.url, FIVE)
    assert caplog.text.count("RabbitMQ confirmed") == 1


def test_order_that_json_cannot_convert_ends_in_a_traceback(url, channel, monkeypatch):
    """It is a mistake in the program. What came before it is stored; the connection is closed."""
    monkeypatch.setattr(producer, "ORDERS", [new_order("A"), new_order("B", amount=Decimal(5))])
    monkeypatch.setattr("signal.signal", lambda number, reaction: None)
    monkeypatch.delattr("time.sleep")  # nothing waits
    monkeypatch.delattr("pika.BlockingConnection.sleep")
    with Network(url, CONNECTION_CLOSE, Network.watch) as network:
        monkeypatch.setattr(producer.RABBITMQ, "port", pika.URLParameters(network.url).port)
        with pytest.raises(TypeError):
            producer.main()
        assert network.key_came.is_set(), "the connection stayed open"
    assert take_ids(channel) == ["A"]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_error_of_rabbitmq_or_the_network_is_told_in_a_line(error, monkeypatch, caplog):
    """And publish() is not called again."""
    monkeypatch.setattr(producer, "publish", publish := Mock(side_effect=[error]))
    monkeypatch.setattr("signal.signal", lambda number, reaction: None)
    with pytest.raises(SystemExit, match="^1$"):
        producer.main()
    publish.assert_called_once_with(producer.ORDERS)
    (record,) = caplog.records
    assert (record.levelname, record.message) == ("ERROR", f"Failed: {error!r}")
    assert not record.exc_info
