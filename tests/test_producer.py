"""producer.py against a real RabbitMQ: as a process, as a user runs it, or its functions."""

import subprocess
from decimal import Decimal
from unittest.mock import Mock

import pika
import pytest
from pika import exceptions

import producer
from rig.orders import drain_ids, new_order, store_messages
from rig.processes import PRODUCER, TESTS, Program
from rig.proxy import BASIC_ACK, Proxy, cut

SAMPLE = """\
{"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"}
{"order_id": "ORD-002", "customer": "Анна Ким", "amount": 1249.5, "status": "pending"}
{"order_id": "ORD-003", "customer": "John Smith", "amount": 320, "status": "pending"}
{"order_id": "ORD-004", "customer": "Пётр Орлов", "amount": 7800, "status": "pending"}
{"order_id": "ORD-005", "customer": "Emma Brown", "amount": 150, "status": "pending"}
"""


def test_five_orders_are_stored_as_persistent_messages(url, channel):
    with Program(PRODUCER, url) as process:
        assert process.wait_for_exit() == 0
    connecting = f"INFO Connecting to RabbitMQ at {url[len('amqp://') :]} (it may be starting)"
    confirmed = [f"INFO RabbitMQ confirmed {body}" for body in SAMPLE.splitlines()]
    assert process.checked_records() == [connecting, *confirmed]
    store_messages(channel)  # RabbitMQ refuses this if the queue is not a durable one
    for expected in SAMPLE.splitlines():
        _, properties, body = channel.basic_get("orders", auto_ack=True)
        assert body.decode() == expected
        assert properties == pika.BasicProperties(delivery_mode=2)


def test_publish_leaves_log_and_signals_to_its_caller(url):
    with Program(TESTS / "rig/importer.py", url) as process:
        assert process.wait_for_exit() == 0
    assert process.checked_records() == ["INFO SIG_IGN"]


def test_connection_that_breaks_ends_the_producer(url, channel):
    """The first order is stored, but not confirmed: trying again would store it twice."""
    failed = "ERROR Failed: (?!ConnectionWrongState).*"  # the cause, not what fails after it
    with (
        Proxy(url, BASIC_ACK, cut) as proxy,
        Program(PRODUCER, proxy.url, allowed=failed) as process,
    ):
        assert process.wait_for_exit() == 1
    assert process.count("Connecting") == process.count(failed) == 1
    assert process.count("RabbitMQ confirmed") == 0
    assert drain_ids(channel) == ["ORD-001"]


def test_order_for_a_deleted_queue_raises(url, channel, monkeypatch, caplog):
    """The queue is deleted after the first order. It is not declared again for each order."""
    with Proxy(url, BASIC_ACK, lambda: channel.queue_delete("orders")) as proxy:
        monkeypatch.setattr(producer, "RABBITMQ", pika.URLParameters(proxy.url))
        with pytest.raises(exceptions.UnroutableError):
            producer.publish(producer.ORDERS)
    assert caplog.text.count("RabbitMQ confirmed") == 1


def test_refused_order_raises(node, url, channel, monkeypatch, caplog):
    limit = ["limit", "^full$", '{"max-length":3,"overflow":"reject-publish"}']
    subprocess.run(["rabbitmqctl", "-q", "set_policy", *limit], env=node.environment, check=True)
    monkeypatch.setattr(producer, "RABBITMQ", pika.URLParameters(url))
    monkeypatch.setattr(producer, "QUEUE", "full")
    orders = [new_order(order_id, amount=float("nan")) for order_id in "ABCDE"]  # NaN is no JSON
    before = repr(orders)
    with pytest.raises(exceptions.NackError):
        producer.publish(orders)
    assert caplog.text.count("RabbitMQ confirmed") == 3
    assert drain_ids(channel, "full") == ["A", "B", "C"]
    assert repr(orders) == before, "publish() has changed its caller's orders"


def test_order_that_json_cannot_convert_raises(url, channel, monkeypatch):
    monkeypatch.setattr(producer, "RABBITMQ", pika.URLParameters(url))
    monkeypatch.setattr(producer, "ORDERS", [new_order("A"), new_order("B", amount=Decimal(5))])
    monkeypatch.setattr("signal.signal", lambda number, reaction: None)
    with pytest.raises(TypeError):
        producer.main()
    assert drain_ids(channel) == ["A"]


def test_errors_of_rabbitmq_and_the_network_are_logged_in_a_line(monkeypatch, caplog):
    errors = [exceptions.AMQPConnectionError("why"), exceptions.NackError(["why"]), OSError("why")]
    monkeypatch.setattr(producer, "publish", Mock(side_effect=errors))
    monkeypatch.setattr("signal.signal", lambda number, reaction: None)
    for _ in errors:
        with pytest.raises(SystemExit, match="^1$"):
            producer.main()
    logged = [(each.levelname, each.message, each.exc_info) for each in caplog.records]
    assert logged == [("ERROR", f"Failed: {error!r}", None) for error in errors]
