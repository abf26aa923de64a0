"""producer.py against a real RabbitMQ: as a process, as a user runs it, or its functions."""

import json
import re
import socket
import threading
from decimal import Decimal

import pika
import pytest
from pika.exceptions import ChannelWrongStateError, StreamLostError

import producer
from rig.network import BASIC_ACK, CONNECTION_CLOSE, Network, cut
from rig.node import connect, free_port
from rig.orders import SAMPLE_IDS, ids, put, take_all, take_ids
from rig.processes import PRODUCER, PRODUCER_OF_MANY, Program, run_producer
from rig.waiting import LIMIT

FIVE = """\
{"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"}
{"order_id": "ORD-002", "customer": "Анна Ким", "amount": 1249.5, "status": "pending"}
{"order_id": "ORD-003", "customer": "John Smith", "amount": 320, "status": "pending"}
{"order_id": "ORD-004", "customer": "Пётр Орлов", "amount": 7800, "status": "pending"}
{"order_id": "ORD-005", "customer": "Emma Brown", "amount": 150, "status": "pending"}"""


def test_five_orders_are_stored_as_persistent_messages(url, channel):
    process = run_producer(PRODUCER, url)
    port = pika.URLParameters(url).port
    assert process.records == [
        f"INFO Connecting to RabbitMQ at 127.0.0.1:{port} (it may be starting)",
        *(f"INFO Stored {order}" for order in FIVE.split("\n")),
    ]
    put(channel)  # RabbitMQ refuses this if the queue is not a durable one
    for order in FIVE.split("\n"):
        _, properties, body = channel.basic_get("orders", auto_ack=True)
        assert body.decode() == order
        assert properties == pika.BasicProperties(delivery_mode=2)


def test_connecting_is_tried_again_while_rabbitmq_starts(url, channel):
    """Docker accepts a connection before RabbitMQ does, and cuts it."""
    with Network(url, sent={b"AMQP": cut}) as network:
        run_producer(PRODUCER, network.url)
        assert network.sent.count(b"AMQP") == 2
    assert take_ids(channel) == SAMPLE_IDS


def run_failing_producer(amqp_url: str, count: int = 5) -> tuple[list[str], str]:
    """Run a producer that fails; return the order_ids that it called stored, and the error."""
    with Program(PRODUCER_OF_MANY, amqp_url, "A", 1, count, may_say="^ERROR Failed: ") as process:
        assert process.wait() == 1
    assert process.count("^INFO Connecting") == 1
    assert process.count("") == 1 + process.count("^INFO Stored") + 1, "a line for the error"
    return process.orders("Stored"), process.records[-1]


@pytest.mark.parametrize("error", ["ConnectionRefused", "ACCESS_REFUSED"])
def test_failed_connection_is_told_in_a_line(error, url):
    """Nobody listens; the password is wrong."""
    port = free_port() if error == "ConnectionRefused" else pika.URLParameters(url).port
    user = "guest:wr%40ng" if error == "ACCESS_REFUSED" else "guest:guest"
    _, told = run_failing_producer(f"amqp://{user}@127.0.0.1:{port}")
    assert error in told and not re.search("wr@ng|wr%40ng", told)


def test_refused_order_is_not_called_stored(url, channel):
    """The queue takes 20 orders (conftest.py)."""
    stored, told = run_failing_producer(url, 30)
    assert "NackError" in told
    assert stored == take_ids(channel) == ids("A", 20)


def test_order_for_a_deleted_queue_is_not_called_stored(url, channel):
    def delete_the_queue():
        with connect(url) as connection:
            connection.channel().queue_delete("orders")

    with Network(url, sent={b"A-00003": delete_the_queue}) as network:
        stored, told = run_failing_producer(network.url)
    assert stored == ids("A", 2) and "UnroutableError" in told


@pytest.mark.parametrize(
    ("sent", "answered", "stored", "taken"),
    [({}, {BASIC_ACK: cut}, 0, 1), ({CONNECTION_CLOSE: cut}, {}, 5, 5)],
    ids=["before the first confirmation", "after the last one"],
)
def test_connection_that_breaks_is_told_in_a_line(sent, answered, stored, taken, url, channel):
    """An order can be stored although nobody was told so."""
    with Network(url, sent, answered) as network:
        called_stored, told = run_failing_producer(network.url)
    assert re.search("StreamLostError|ConnectionClosed", told)
    assert called_stored == ids("A", stored)
    assert take_ids(channel) == ids("A", taken)


def test_order_is_called_stored_when_rabbitmq_confirms_it(url, channel):
    """Until then, for example while RabbitMQ is short of memory, it waits and says nothing."""
    confirm = threading.Event()
    with (
        Network(url, answered={BASIC_ACK: lambda: confirm.wait(LIMIT)}) as network,
        Program(PRODUCER, network.url) as process,
    ):
        process.wait_for("Connecting")
        process.wait_until(lambda: BASIC_ACK in network.answered, "a confirmation")
        assert process.count("") == 1
        confirm.set()
        assert process.wait() == 0
    assert process.orders("Stored") == take_ids(channel) == SAMPLE_IDS


@pytest.mark.parametrize("kind", [StreamLostError, ChannelWrongStateError, socket.gaierror])
def test_error_of_rabbitmq_or_the_network_is_told_in_a_line(kind, in_process, monkeypatch, caplog):
    def fail(connection, parameters):
        raise kind("why")

    monkeypatch.setattr("pika.BlockingConnection.__init__", fail)
    monkeypatch.setattr(producer.RABBITMQ, "host", "rabbitmq.example")
    with pytest.raises(SystemExit, match="^1$"):
        producer.main()
    where = f"rabbitmq.example:{producer.RABBITMQ.port}"
    assert [(record.levelname, record.message, record.exc_info) for record in caplog.records] == [
        ("INFO", f"Connecting to RabbitMQ at {where} (it may be starting)", None),
        ("ERROR", f"Failed: {kind('why')!r}", None),
    ]


def test_order_that_is_no_json_raises_its_own_error(channel, slept, monkeypatch, caplog):
    """Those before it are stored, without delay. The caller's list stays as it is."""
    order = {"customer": "B", "amount": 5, "items": ["x" * 10_000]}
    orders = [order, {"order_id": "C", "amount": Decimal(5)}, order]
    before = [dict(order) for order in orders]
    monkeypatch.setattr(producer, "ORDERS", orders)
    with pytest.raises(TypeError):
        producer.main()
    assert orders == before and slept == []
    assert [json.loads(body) for body in take_all(channel)] == [order]
    assert caplog.messages[-1] == f"Stored {json.dumps(order)}"
