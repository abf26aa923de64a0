"""producer.py against a real RabbitMQ: as a process, as a user runs it, or its functions."""

import json
from signal import SIGINT, SIGTERM

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

import producer
from consumer import parse_order
from rig.network import CONNECTION_CLOSE, PUBLISH, Network
from rig.node import LIMIT, connect, free_port
from rig.orders import SAMPLE_IDS, counts, ids, take_all, take_orders
from rig.processes import PRODUCER, PRODUCER_OF_MANY, Program, run

FIRST = '{"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"}'

# Five orders


def test_five_orders_are_stored_as_persistent_messages(url: str, channel: Channel) -> None:
    process = run(PRODUCER, url)
    assert process.lines == [f"INFO Stored {order_id!r}" for order_id in SAMPLE_IDS]
    bodies = []
    for _ in range(5):
        _, properties, body = channel.basic_get("orders", auto_ack=True)
        bodies.append(body)
        given = {name: value for name, value in vars(properties).items() if value is not None}
        assert given == {"delivery_mode": 2}
    assert bodies[0].decode() == FIRST
    assert [parse_order(body) for body in bodies] == producer.ORDERS


def test_each_run_publishes_all_orders_without_a_wait(channel: Channel, slept: list[float]) -> None:
    producer.main()
    producer.main()
    assert take_orders(channel) == dict.fromkeys(SAMPLE_IDS, 2)
    assert slept == []


# "Stored" is said of orders that RabbitMQ has confirmed, and of no others


@pytest.mark.xdist_group("full")
def test_refused_orders_are_published_again_until_there_is_room(full_url: str) -> None:
    with (
        connect(full_url) as connection,
        Program(PRODUCER_OF_MANY, full_url, "A", 300, 30, errors="NackError") as process,
    ):
        process.wait_for("NackError", times=2)
        bodies = take_all(connection.channel())
        assert process.wait() == 0
        bodies += take_all(connection.channel())
    assert process.orders("Stored") == ids("A", 300)
    assert [json.loads(body)["order_id"] for body in bodies] == ids("A", 300)


def test_order_for_a_deleted_queue_is_published_again(url: str, channel: Channel) -> None:
    with Network(url, hold_at=PUBLISH) as network:
        with Program(PRODUCER, network.url, errors="UnroutableError") as process:
            assert network.held.wait(LIMIT)
            channel.queue_delete("orders")
            network.go_on.set()
            assert process.wait() == 0
    assert process.count("ERROR") == 1
    assert take_orders(channel) == dict.fromkeys(SAMPLE_IDS, 1)


def test_connection_that_breaks_after_the_last_confirmation_is_not_a_failure(
    url: str, channel: Channel
) -> None:
    """With one attempt, so that a second one cannot hide a failure."""
    with Network(url, cut_at=CONNECTION_CLOSE) as network:
        run(PRODUCER_OF_MANY, network.url, "A", 5, 1, errors="StreamLostError")
        assert network.cut_at == b"", "it was cut"
    assert take_orders(channel) == dict.fromkeys(ids("A", 5), 1)


# Its end


def test_gives_up_after_30_attempts_a_second_apart(
    slept: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And says whole what is not stored, also an order of the user's own without an order_id."""
    port = free_port()
    monkeypatch.setattr(producer, "RABBITMQ", pika.URLParameters(f"amqp://127.0.0.1:{port}"))
    monkeypatch.setattr(producer, "ORDERS", [*producer.ORDERS, {"customer": "Иван"}])
    with pytest.raises(SystemExit, match="1"):
        producer.main()
    assert slept == [1] * 30
    *errors, last = caplog.messages
    assert len(errors) == 30
    for attempt, error in enumerate(errors, start=1):
        where = f"RabbitMQ at 127.0.0.1:{port}, attempt {attempt} of 30"
        assert error.startswith(f"Cannot publish ({where}): AMQPConnectionError")
    assert last == f"Not confirmed: {producer.ORDERS}"


@pytest.mark.xdist_group("full")
def test_not_confirmed_orders_are_those_that_are_not_stored(full_url: str) -> None:
    errors = "NackError|Not confirmed"
    with Program(PRODUCER_OF_MANY, full_url, "A", 300, 2, errors=errors) as process:
        assert process.wait() == 1
    with connect(full_url) as connection:
        stored = take_orders(connection.channel())
    assert process.orders("Stored") == list(stored) == ids("A", 300)[: len(stored)]
    (rest,) = process.texts("^ERROR Not confirmed: (.*)")
    assert [order["order_id"] for order in eval(rest)] == ids("A", 300)[len(stored) :]


@pytest.mark.parametrize("number", [SIGINT, SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_signal_ends_it_without_a_traceback(url: str, channel: Channel, number: int) -> None:
    with Program(PRODUCER_OF_MANY, url, "A", 100_000, 1) as process:
        process.wait_for("Stored", times=20)
        process.kill(number)
    assert process.count("Traceback") == 0
    assert counts(channel)[0] >= process.count("Stored") >= 20


# publish(), which README.md shows for orders of one's own


def test_publish_takes_orders_out_of_the_list_as_they_are_stored(
    channel: Channel, slept: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """And publishes no order that has no order_id; none can forge a line of the log."""
    order = {"order_id": "A\nB", "customer": "B", "amount": 5, "status": "new", "items": ["x"]}
    orders = [order, {"customer": "B"}]
    with pytest.raises(KeyError):
        producer.publish(orders)
    assert orders == [{"customer": "B"}]
    assert [json.loads(body) for body in take_all(channel)] == [order]
    assert caplog.messages == [r"Stored 'A\nB'"]
