"""producer.py as a process, as a user runs it, against a real broker."""

import random
import re
import time
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any

import pika
import pytest

from rig.broker import Broker
from rig.network import Network
from rig.orders import drain, line, messages, names, ready
from rig.scripts import IMPATIENT, PATIENT, WITHOUT_PAUSE, nowhere, producer, telling_consumer

SAMPLES = """\
{"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"}
{"order_id": "ORD-002", "customer": "Анна Ким", "amount": 1249.5, "status": "pending"}
{"order_id": "ORD-003", "customer": "John Smith", "amount": 320, "status": "pending"}
{"order_id": "ORD-004", "customer": "Пётр Орлов", "amount": 7800, "status": "pending"}
{"order_id": "ORD-005", "customer": "Emma Brown", "amount": 150, "status": "pending"}
"""


def test_stores_five_persistent_orders(broker: Broker, channel: Any) -> None:
    with producer(broker) as script:
        assert script.wait() == 0
    where = f"Publishing 5 orders to 127.0.0.1:{broker.port}"
    said = [f"Stored 'ORD-00{n}' (line {n})" for n in range(1, 6)]
    assert [text[24:] for text in script.lines] == [where, *said]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", text) for text in script.lines)
    bodies = []
    for method, properties, body in messages(channel):
        assert (method.exchange, method.routing_key) == ("", "orders")
        given = {key: value for key, value in vars(properties).items() if value}
        given.pop("headers", None)  # RabbitMQ 3.10 counts deliveries there
        assert given == {"delivery_mode": 2, "content_type": "application/json"}
        bodies.append(body.decode())
    assert bodies == SAMPLES.splitlines()


def test_publishes_a_file_as_it_stands(broker: Broker, channel: Any, tmp_path: Path) -> None:
    lines = [b'{"amount":10.10,"status":"x","customer":"\\u0418 \xd0\x96","order_id":"A"}']
    lines.append(line("B", items=[1.0, None]).replace(b", ", b",\r"))  # tail counts \n alone
    lines.append(lines[0])
    (tmp_path / "orders").write_bytes(b"\r\n".join(lines))
    with producer(broker, tmp_path / "orders") as script:
        assert script.wait() == 0, script
    assert [body for _, _, body in messages(channel)] == lines


A, B = line("A"), line("B")


@pytest.mark.parametrize(
    "text, why",
    [
        (A + b"\n" + line("B", amount=True), ", line 2: amount must be"),
        (A + b"\n\n" + B, ", line 2: Expecting value"),
        (b"[" * 200_000, ", line 1: "),
        (A.replace(b"1249.5", b"1e99999999999999999999"), ", line 1: "),
        (None, "No such file or directory"),
    ],
    ids=["no amount", "a blank line", "brackets", "an endless number", "no file"],
)
def test_bad_file_is_named_and_nothing_is_sent(tmp_path: Path, text: Any, why: str) -> None:
    path = tmp_path / "orders.jsonl"
    if text is not None:
        path.write_bytes(text)
    with producer(nowhere(), path) as script:
        assert script.wait() == 1
    (said,) = script.lines
    assert said.startswith("Nothing was sent. ") and str(path) in said and why in said


@pytest.mark.parametrize("arguments, status", [([""], 1), (["."], 1), (["a", "b"], 2)])
def test_other_arguments_are_no_wish_for_the_samples(arguments: list[str], status: int) -> None:
    with producer(nowhere(), *arguments) as script:
        assert script.wait() == status
    assert "Publishing" not in script.out and "Traceback" not in script.out


# "Stored" is said of what is confirmed, and of nothing else


@pytest.fixture
def short_queue(node: Broker) -> str:
    """The URL of a vhost in which an operator's policy limits the queue to 200 messages."""
    url = node.url(vhost="short")
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_delete("orders")
    return url


def test_refused_orders_are_not_called_stored_until_there_is_room(short_queue: str) -> None:
    orders = names("A", 300)
    with producer(short_queue, lines=map(line, orders), change=IMPATIENT) as script:
        script.wait_for("NackError", times=2)
        assert len(script.process.net_connections()) <= 1, "others are open"
        assert script.wait() == 1, script
    stored = script.stored
    with pika.BlockingConnection(pika.URLParameters(short_queue)) as connection:
        assert 200 <= len(stored) == ready(connection.channel()) < 300
    assert len(script.seen("(NackError)")) == 3
    assert script.lines[-1] == f"Giving up at line {len(stored) + 1}"
    with producer(short_queue, lines=map(line, orders[len(stored) :])) as script:
        script.wait_for("NackError")
        with telling_consumer(short_queue) as worker:
            assert script.wait() == 0, script
            worker.wait_for("Processed 'A-00300'")
    assert worker.texts("end (.*)") == [*stored, *script.stored] == orders


def test_orders_for_a_deleted_queue_are_published_again(broker: Broker, channel: Any) -> None:
    orders = names("A", 60)
    with Network(broker.port) as network:
        network.pause = 0.05  # or it is done too early
        with producer(network, lines=map(line, orders)) as script:
            script.wait_for("Stored", times=3)
            channel.queue_delete("orders")
            network.pause = 0
            assert script.wait() == 0, script
    assert len(script.seen("(UnroutableError)")) == 1 and script.stored == orders
    left = list(drain(channel, "orders"))
    assert left == orders[-len(left) :] and len(left) > 30, "only those from before are gone"


def test_gives_up_after_thirty_attempts() -> None:
    with producer(nowhere(), change=WITHOUT_PAUSE) as script:
        assert script.wait() == 1
    assert len(script.seen("(ConnectionRefusedError)")) == 30 == len(script.lines) - 2
    assert script.lines[-1] == "Giving up at line 1"


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_interrupted_file_goes_on_after_the_last_line_stored(
    broker: Broker, channel: Any, number: int
) -> None:
    orders = names("A", 1_500)
    with Network(broker.port) as network:
        network.pause = 0.005  # or it may be done before the signal comes
        with producer(network, lines=map(line, orders)) as script:
            script.wait_for("Stored", times=20)
            time.sleep(random.uniform(0, 0.5))
            script.signal(number)
            assert script.wait() == -number and "Traceback" not in script.out, script
    last = int(script.texts(r"Stored .* \(line (\d+)\)$")[-1])
    with producer(broker, lines=map(line, orders[last:]), change=PATIENT) as script:
        assert script.wait() == 0, script
    copies = drain(channel, "orders")
    assert set(copies) == set(orders)
    assert sum(copies.values()) <= 1_501, "only the order in doubt may be there twice"
