"""producer.py as a process, as a user runs it, against a real broker."""

import json
from signal import SIGINT, SIGTERM

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

import producer
from rig.changes import two_attempts, work_is_nothing
from rig.network import CONNECTION_CLOSE, PUBLISH, Network
from rig.node import LIMIT, SPEED, Node
from rig.orders import drain, ids, messages, ready_count
from rig.scripts import nowhere, run_producer, start_consumer, start_producer

SAMPLES = """\
{"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"}
{"order_id": "ORD-002", "customer": "Анна Ким", "amount": 1249.5, "status": "pending"}
{"order_id": "ORD-003", "customer": "John Smith", "amount": 320, "status": "pending"}
{"order_id": "ORD-004", "customer": "Пётр Орлов", "amount": 7800, "status": "pending"}
{"order_id": "ORD-005", "customer": "Emma Brown", "amount": 150, "status": "pending"}
"""


def test_stores_five_persistent_orders_and_says_so(node: Node, channel: Channel) -> None:
    process = run_producer(node)
    stored = list(messages(channel))
    assert [body.decode() for _, _, body in stored] == SAMPLES.splitlines()
    for _, properties, _ in stored:
        assert properties.delivery_mode == 2
        assert properties.content_type == "application/json"
        assert properties.expiration is None
    assert process.lines == [f"INFO Stored 'ORD-00{number}'" for number in range(1, 6)]


# "Stored" is said of orders that RabbitMQ has confirmed, and of no others


def test_refused_orders_are_not_called_stored_until_there_is_room(
    node: Node, channel: Channel, full_at_200: None
) -> None:
    orders = ids("A", 300)
    with start_producer(node, orders=orders) as process:
        process.wait_for("NackError", times=2)
        stored = ready_count(channel)
        assert process.stored == orders[:stored]
        assert len(process.process.net_connections()) <= 1, "each failed attempt has hung up"
        with start_consumer(node, work_is_nothing) as consumer:
            assert process.wait() == 0
            consumer.wait_for("Processed 'A-00300'")
    assert stored < 300
    assert consumer.processed == process.stored == orders


def test_last_line_names_what_is_not_confirmed(
    node: Node, channel: Channel, full_at_200: None
) -> None:
    orders = ids("A", 300)
    with start_producer(node, two_attempts, orders=orders) as process:
        assert process.wait() == 1
    assert process.lines[-1] == f"Not confirmed: {orders[ready_count(channel) :]}"


def test_order_for_a_deleted_queue_is_published_again(node: Node, channel: Channel) -> None:
    with Network(node.port) as network:
        network.hold_up_at(PUBLISH)
        with start_producer(network) as process:
            assert network.held.wait(LIMIT)
            channel.queue_delete("orders")
            network.release()
            assert process.wait() == 0
    assert process.count("UnroutableError") == 1
    assert drain(channel, "orders") == dict.fromkeys(process.stored, 1)
    assert len(process.stored) == 5


# Its end


def test_gives_up_after_thirty_attempts_a_second_apart() -> None:
    with start_producer(nowhere()) as process:
        assert process.wait() == 1
    *errors, last = process.lines
    for number, line in enumerate(errors, 1):
        assert line.startswith("ERROR RabbitMQ at 127.0.0.1:")
        assert f", attempt {number} of 30: AMQPConnectionError" in line
        assert "ConnectionRefusedError" in line
    assert last == f"Not confirmed: {[f'ORD-00{number}' for number in range(1, 6)]}"
    moments = process.moments_of("ERROR")
    assert len(moments) == 30
    assert 28.9 < moments[-1] - moments[0] < 29 + 10 / SPEED


def test_connection_lost_after_the_last_confirmation_is_no_failure(
    node: Node, channel: Channel
) -> None:
    with Network(node.port) as network:
        network.cut_at = CONNECTION_CLOSE
        process = run_producer(network)
        assert (network.connections, network.cuts) == (1, 1)
    assert len(process.stored) == 5
    assert drain(channel, "orders") == dict.fromkeys(process.stored, 1)


@pytest.mark.parametrize("number", [SIGINT, SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_signal_ends_it_at_once_without_a_traceback(node: Node, number: int) -> None:
    orders = ids("A", 1_500)
    with Network(node.port) as network:
        network.pause = 0.005  # or it may be done before the signal comes
        with start_producer(network, orders=orders) as process:
            process.wait_for("Stored", times=20)
            process.signal(number)
            assert process.wait() == -number
    assert len(process.stored) < 500
    assert "Traceback" not in process.out


# Orders of one's own, as README shows


def test_publish_takes_orders_from_the_list_as_they_are_stored(
    node: Node, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "RABBITMQ", pika.URLParameters(node.url()))
    order = {"order_id": "A", "customer": "B", "amount": 5, "status": "new", "items": ["x"]}
    orders = [order, {"order_id": {1, 2}}, {"order_id": "C"}]
    with pytest.raises(TypeError):  # JSON has no sets
        producer.publish(orders)
    assert orders == [{"order_id": {1, 2}}, {"order_id": "C"}]
    producer.publish([{"order_id": "D"}])
    assert [json.loads(body) for _, _, body in messages(channel)] == [order, {"order_id": "D"}]
