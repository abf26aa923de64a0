"""producer.py as a process, as a user runs it, against a real broker."""

import contextlib
import json
import os
import random
import re
import time
from decimal import Decimal
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any

import pika
import psutil
import pytest

from rig.broker import Broker, running, wait_until
from rig.network import CONFIRM_SELECT, CONNECTION_CLOSE, PUBLISH, Network
from rig.orders import drain, line, messages, names, ready
from rig.scripts import IMPATIENT, PATIENT, nowhere, producer, telling_consumer


def test_stores_five_persistent_orders(broker: Broker, channel: Any) -> None:
    with producer(broker) as script:
        assert script.wait() == 0
    where = f"Publishing 5 orders to 127.0.0.1:{broker.port}"
    said = [f"Stored 'ORD-00{n}' (line {n})" for n in range(1, 6)]
    assert [text[24:] for text in script.lines] == [where, *said]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", text) for text in script.lines)
    orders = []
    for method, properties, body in messages(channel):
        assert (method.exchange, method.routing_key) == ("", "orders")
        given = {key: value for key, value in vars(properties).items() if value}
        given.pop("headers", None)  # RabbitMQ 3.10 counts deliveries there
        assert given == {"delivery_mode": 2, "content_type": "application/json"}
        orders.append(json.loads(body, parse_float=Decimal))
        assert orders[-1]["customer"] in body.decode(), "letters are not escaped"
    first = {"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"}
    assert orders[0] == first
    assert [order["order_id"] for order in orders] == [f"ORD-00{n}" for n in range(1, 6)]
    assert {order["status"] for order in orders} == {"pending"}


def test_publishes_a_file_as_it_stands(broker: Broker, channel: Any, tmp_path: Path) -> None:
    lines = [b'{"amount":10.10,"status":"x","customer":"\\u0418 \xd0\x96","order_id":"A"}']
    lines.append(line("B", items=[1.0, None]).replace(b", ", b",\r"))  # tail counts \n alone
    (tmp_path / "orders").write_bytes(b"\r\n".join(lines))
    with producer(broker, tmp_path / "orders") as script:
        assert script.wait() == 0, script
    assert [body for _, _, body in messages(channel)] == lines


A, B = line("A"), line("B")
BAD_FILES = {
    "an amount that is none": (A + b"\n" + line("B", amount=True), "line 2: amount must be"),
    "a blank line": (A + b"\n\n" + B, "line 2: Expecting value"),
    "brackets": (b"[" * 200_000, "line 1: "),
    "an endless number": (A.replace(b"1249.5", b"1e99999999999999999999"), "line 1: "),
    "no file": (None, "No such file or directory"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_bad_file_is_named_and_nothing_is_sent(
    broker: Broker, channel: Any, tmp_path: Path, what: str
) -> None:
    text, why = BAD_FILES[what]
    path = tmp_path / "orders.jsonl"
    if text is not None:
        path.write_bytes(text)
    with producer(broker, path) as script:
        assert script.wait() == 1
    assert len(script.lines) == 1, script
    assert script.out.startswith(f"Nothing was sent. {path}: ") and why in script.out
    with pytest.raises(Exception, match="no queue 'orders'"):
        ready(channel)


@pytest.mark.parametrize("arguments, status", [([""], 1), (["."], 1), (["a", "b"], 2)])
def test_other_arguments_are_no_wish_for_the_samples(arguments: list[str], status: int) -> None:
    with producer(nowhere(), *arguments) as script:
        assert script.wait() == status
    assert "Publishing" not in script.out and "Traceback" not in script.out


def test_empty_file_is_said_to_hold_no_orders() -> None:
    with producer(nowhere(), "/dev/null") as script:
        assert script.wait() == 0
    assert len(script.lines) == 1 and "Publishing 0 orders" in script.out


# "Stored" is said of what is confirmed, and of nothing else


@pytest.fixture
def short_queue(node: Broker) -> str:
    """The URL of a vhost in which an operator's policy limits the queue to 200 messages."""
    url = node.url(vhost="short")
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_delete("orders")
    return url


def test_refused_orders_are_not_called_stored(short_queue: str) -> None:
    with producer(short_queue, lines=[A] * 300, change=IMPATIENT) as script:
        assert script.wait() == 1, script
    said = len(script.stored)
    with pika.BlockingConnection(pika.URLParameters(short_queue)) as connection:
        assert 200 <= said == ready(connection.channel()) < 300
    assert len(script.seen("(NackError)")) == 3
    assert script.lines[-1] == f"Giving up at line {said + 1}"


def test_refused_orders_are_stored_once_there_is_room(short_queue: str) -> None:
    orders = names("A", 300)
    with producer(short_queue, lines=map(line, orders)) as script:
        script.wait_for("NackError", times=10)
        assert len(psutil.Process(script.process.pid).net_connections()) <= 1, "others are open"
        with telling_consumer(short_queue) as worker:
            assert script.wait() == 0, script
            worker.wait_for("Processed 'A-00300'")
    assert worker.texts("end (.*)") == script.stored == orders


def test_orders_for_a_deleted_queue_are_published_again(broker: Broker, channel: Any) -> None:
    with Network(broker.port) as network:
        network.hold_up_at(PUBLISH)
        with producer(network) as script:
            assert network.held.wait(60)
            channel.queue_delete("orders")
            network.release()
            assert script.wait() == 0, script
    assert len(script.seen("(UnroutableError)")) == 1
    assert drain(channel) == dict.fromkeys(script.stored, 1)


def test_connection_that_often_breaks_leaves_at_most_a_copy_each(
    broker: Broker, channel: Any
) -> None:
    """Each ends after 10 KB, a part of the orders: so no failure follows another at one order."""
    orders = names("A", 300)
    with Network(broker.port) as network:
        network.cut_after = 10_000
        with producer(network, lines=map(line, orders), change=IMPATIENT) as script:
            assert script.wait() == 0, script
        connections = len(network.connected)
    assert connections > 4 and len(script.lines) == 1 + 300 + connections - 1
    copies = drain(channel)
    assert set(copies) == set(orders)
    assert 300 <= sum(copies.values()) < 300 + connections


def test_cut_when_all_is_stored_is_no_failure(broker: Broker, channel: Any) -> None:
    with Network(broker.port) as network:
        network.cut_at = CONNECTION_CLOSE
        with producer(network) as script:
            assert script.wait() == 0, script
    assert len(script.stored) == ready(channel) == 5


# The broker is not there, or does not answer


def test_gives_up_after_thirty_attempts_a_second_apart() -> None:
    with producer(nowhere()) as script:
        assert script.wait() == 1
    assert len(script.seen("(ConnectionRefusedError)")) == 30 == len(script.lines) - 2
    assert script.lines[-1] == "Giving up at line 1"
    assert 28.9 < script.moments[-2] - script.moments[1] < 29 * 1.9


def test_waits_while_memory_is_short_then_stores_each_once(tmp_path: Path) -> None:
    config = "vm_memory_high_watermark.absolute = 1MB\n"  # it is short from the start
    with running(Broker(tmp_path, config)) as node, Network(node.port) as network:
        network.hold_up_at(PUBLISH)
        with producer(network) as script:
            assert network.held.wait(60)
            network.release()
            time.sleep(5)  # in which to be wrong
            assert not script.ended() and len(script.lines) == 1, script
            node.rabbitctl_output("set_vm_memory_high_watermark", "0.6")
            assert script.wait() == 0, script
        assert len(network.connected) == 1
        with node.connect() as connection:
            assert drain(connection.channel()) == dict.fromkeys(script.stored, 1)


# Ctrl-C


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_interrupted_while_it_waits_for_rabbitmq(broker: Broker, number: int) -> None:
    with Network(broker.port) as network:
        network.hold_up_at(CONFIRM_SELECT)
        with producer(network) as script:
            assert network.held.wait(60)
            script.signal(number)
            assert script.wait() == -number
    assert len(script.lines) == 1, script


def test_interrupted_while_it_reads(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def opened() -> int:
        with contextlib.suppress(OSError):  # the script has not opened it yet
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        return 0

    with producer(nowhere(), fifo) as script:
        descriptor = wait_until(opened, "it reads")
        script.signal()
        assert script.wait() == -SIGINT
        os.close(descriptor)
    assert script.lines == []


def test_interrupted_file_goes_on_after_the_last_line_stored(
    broker: Broker, channel: Any, draw: random.Random
) -> None:
    orders = names("A", 1_500)
    with Network(broker.port) as network:
        network.pause = 0.005  # or it may be done before the signal comes
        with producer(network, lines=map(line, orders)) as script:
            script.wait_for("Stored", times=20)
            time.sleep(draw.uniform(0, 0.5))
            script.signal()
            assert script.wait() == -SIGINT, script
    last = int(script.texts(r"Stored .* \(line (\d+)\)$")[-1])
    with producer(broker, lines=map(line, orders[last:]), change=PATIENT) as script:
        assert script.wait() == 0, script
    copies = drain(channel)
    assert set(copies) == set(orders)
    assert sum(copies.values()) <= 1_501, "only the order in doubt may be there twice"
