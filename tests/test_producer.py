"""producer.py as a process, as a user runs it, against a real RabbitMQ."""

import json
import logging
import signal

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

import producer
from rig.network import CONNECTION_CLOSE, PUBLISH, Network
from rig.node import LIMIT, Node, free_port
from rig.orders import SAMPLE_IDS, ids, ready_count, take_all, take_orders
from rig.processes import run_producer, start_producer

ORDERS = """\
{"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"}
{"order_id": "ORD-002", "customer": "Анна Ким", "amount": 1249.5, "status": "pending"}
{"order_id": "ORD-003", "customer": "John Smith", "amount": 320, "status": "pending"}
{"order_id": "ORD-004", "customer": "Пётр Орлов", "amount": 7800, "status": "pending"}
{"order_id": "ORD-005", "customer": "Emma Brown", "amount": 150, "status": "pending"}
"""


@pytest.fixture
def producer_here(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let producer.py, imported by the test, publish to the shared node."""
    monkeypatch.setattr(producer, "RABBITMQ", pika.URLParameters(node.url()))


# Five orders


def test_five_orders_are_stored(node: Node, channel: Channel) -> None:
    process = run_producer(node)
    assert process.lines == [f"INFO Stored {order_id}" for order_id in SAMPLE_IDS]
    assert [body.decode() for body in take_all(channel)] == ORDERS.splitlines()


def test_messages_are_persistent(node: Node, channel: Channel) -> None:
    run_producer(node)
    for _ in range(5):
        _, properties, _ = channel.basic_get("orders", auto_ack=True)
        assert properties.delivery_mode == 2


def test_nothing_waits_when_all_goes_well(
    producer_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(seconds: float) -> None:
        raise AssertionError("the caller was to be free at once")

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr(signal, "signal", lambda number, reaction: None)  # not in this process
    monkeypatch.setattr(logging, "basicConfig", lambda **settings: None)
    producer.main()


# "Stored" is said of orders that RabbitMQ has confirmed, and of no others


def test_refused_orders_are_published_again_until_there_is_room(
    node: Node, channel: Channel, full_at_200: None
) -> None:
    orders = ids("A", 300)
    with start_producer(node, errors="NackError", prefix="A", count=300) as process:
        process.wait_for("NackError", times=2)
        stored = take_all(channel)
        assert process.wait() == 0
    assert process.stored == orders
    found = [json.loads(body)["order_id"] for body in stored + take_all(channel)]
    assert found == orders


def test_orders_that_are_not_confirmed_are_named_in_the_end(
    node: Node, channel: Channel, full_at_200: None
) -> None:
    errors = "NackError|Not confirmed"
    with start_producer(node, errors, prefix="A", count=300, attempts=2) as process:
        assert process.wait() == 1
    stored = ready_count(channel)
    assert process.stored == ids("A", 300)[:stored]
    assert process.lines[-1] == f"ERROR Not confirmed: {ids('A', 300)[stored:]}"


def test_order_for_a_deleted_queue_is_published_again(node: Node, channel: Channel) -> None:
    with Network(node.port) as network:
        network.hold_at = PUBLISH
        with start_producer(network, errors="UnroutableError") as process:
            assert network.held.wait(LIMIT)
            channel.queue_delete("orders")
            network.go_on.set()
            assert process.wait() == 0
    assert process.count("ERROR") == 1
    assert take_orders(channel) == dict.fromkeys(SAMPLE_IDS, 1)


def test_connection_that_breaks_after_the_last_confirmation_is_not_a_failure(
    node: Node, channel: Channel
) -> None:
    """With one attempt, so that a second one cannot hide a failure."""
    with Network(node.port) as network:
        network.cut_at = CONNECTION_CLOSE
        run_producer(network, errors="StreamLostError", prefix="A", count=5, attempts=1)
        assert network.cut_at == b"", "it was cut"
    assert take_orders(channel) == dict.fromkeys(ids("A", 5), 1)


# Its end


def test_gives_up_after_its_attempts() -> None:
    assert producer.ATTEMPTS == 30
    url = f"amqp://127.0.0.1:{free_port()}"
    errors = "ConnectionRefused|Not confirmed"
    with start_producer(url, errors, prefix="A", count=2, attempts=3) as process:
        assert process.wait() == 1
    assert process.count(r"^ERROR Cannot .* at 127.0.0.1:[0-9]+ \(attempt [1-3] of 3\): ") == 3
    assert process.lines[-1] == "ERROR Not confirmed: ['A-00001', 'A-00002']"


def test_ctrl_c_ends_it_at_once_without_a_traceback(node: Node) -> None:
    with start_producer(node, prefix="A", count=100_000) as process:
        process.wait_for("Stored", times=20)
        process.kill(signal.SIGINT)
    assert process.count("Traceback") == 0


# publish(), which README.md shows for orders of one's own


def test_publish_takes_orders_out_of_the_list_as_they_are_stored(
    channel: Channel, producer_here: None
) -> None:
    """And publishes no order that has no order_id."""
    order = {"order_id": "A", "customer": "B", "amount": 5, "status": "new", "items": ["x"]}
    orders = [order, {"customer": "B"}]
    with pytest.raises(KeyError):
        producer.publish(orders)
    assert orders == [{"customer": "B"}]
    assert [json.loads(body) for body in take_all(channel)] == [order]
