"""producer.py as a process, as a user runs it, against a real broker."""

import json
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from conftest import running
from rig.broker import Broker
from rig.network import CONFIRM_SELECT, CONNECTION_CLOSE, PUBLISH, Network
from rig.notes import Notes
from rig.orders import drain, line, messages, names, orders_text, ready, write_orders
from rig.scripts import PRODUCER, Script, changed, nowhere, producer, troubles


def result(script: Script) -> tuple[int, int]:
    """Return the numbers in "5 of 5 orders stored"."""
    found = re.search(r"(\d+) of (\d+) orders stored", script.out)
    assert found, script
    return int(found[1]), int(found[2])


def test_stores_five_persistent_orders(broker: Broker, channel: Any) -> None:
    with producer(broker) as script:
        assert script.wait() == 0
    stored = [f"Stored ORD-00{n} (number {n})" for n in range(1, 6)]
    assert [text[24:] for text in script.lines] == [*stored, "5 of 5 orders stored"]
    found = list(messages(channel))
    assert len(found) == 5
    for number, (method, properties, body) in enumerate(found, 1):
        order = json.loads(body)
        assert order["order_id"] == f"ORD-00{number}"
        assert order["status"] == "pending"
        assert order["customer"] in body.decode(), "letters are not escaped"
        assert (method.exchange, method.routing_key) == ("", "orders")
        assert properties.delivery_mode == 2
        assert properties.content_type == "application/json"


@pytest.mark.parametrize("source", ["file", "standard input"])
def test_publishes_a_file_as_it_stands(broker: Broker, channel: Any, tmp_path: Path, source: str) -> None:
    first = b'{"amount":10.10,"status":"x","customer":"\\u0418 \xd0\x96","order_id":"A"}'
    lines = [first, b"\r", b" \t ", line("B", items=[1.0, None])]
    text = b"\xef\xbb\xbf" + b"\r\n".join(lines)  # with what Windows' editors add
    path = tmp_path / "orders.jsonl"
    path.write_bytes(text)
    argument, stdin = (path, None) if source == "file" else ("-", text)
    with producer(broker, argument, stdin=stdin) as script:
        assert script.wait() == 0, script
    assert [body for _, _, body in messages(channel)] == [lines[0], lines[3]]


@pytest.mark.parametrize(
    "text, told",
    [
        (line("A", amount=True), "1: amount must be given"),
        (line("A") + b"\n\nnot JSON\n", "3: Expecting value"),
        (line("A", customer="Ж").decode().encode("cp1251"), "1: 'utf-8' codec can't"),
    ],
)
def test_first_bad_line_ends_it_and_nothing_is_sent(
    broker: Broker, channel: Any, tmp_path: Path, text: bytes, told: str
) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_bytes(text)
    with producer(broker, path) as script, producer(broker, "-", stdin=text) as other:
        assert script.wait() == other.wait() == 2
    assert len(script.lines) == 1 and script.out.startswith(f"{path}:{told}")
    assert other.out.startswith(f"-:{told}")
    with pytest.raises(Exception, match="no queue 'orders'"):
        ready(channel)


@pytest.mark.parametrize("name", ["none.jsonl", ".", ""])
def test_file_that_cannot_be_read_is_named(broker: Broker, name: str) -> None:
    with producer(broker, name) as script:
        assert script.wait() == 2
    assert len(script.lines) == 1 and script.out.endswith(f": '{name}'")


def test_tells_twenty_orders_then_every_thousandth(broker: Broker, channel: Any) -> None:
    with producer(broker, "-", stdin=orders_text(names("A", 1_001))) as script:
        assert script.wait() == 0
    told = [int(n) for n, _ in script.seen(r"Stored A-\d+ \(number (\d+)\)")]
    assert told == [*range(1, 21), 1000]
    assert result(script) == (1001, 1001)
    assert ready(channel) == 1001


# "Stored" is said of what is confirmed, and of nothing else


@pytest.fixture
def short_queue(node: Broker) -> str:
    """The URL of a vhost in which an operator's policy limits the queue to 200 messages."""
    url = node.url(vhost="short")
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_delete("orders")
    return url


def test_refused_orders_are_not_called_stored(short_queue: str, tmp_path: Path) -> None:
    path = write_orders(tmp_path / "orders", names("A", 500))
    with changed("impatient_producer", path, url=short_queue) as script:
        assert script.wait() == 1, script
    stored, _ = result(script)
    with pika.BlockingConnection(pika.URLParameters(short_queue)) as connection:
        assert 200 <= stored == ready(connection.channel()) < 500
    assert f"first not confirmed: {path}:{stored + 1}" in script.out
    assert set(troubles(script)) <= {"0 message(s) NACKed"}
    assert "Giving up after 3 s" in script.lines[-1] and "NACK" in script.lines[-1]


def test_refused_orders_are_stored_once_there_is_room(short_queue: str, tmp_path: Path) -> None:
    orders, notes = names("A", 500), Notes(tmp_path / "notes")
    with Script(PRODUCER, write_orders(tmp_path / "orders", orders), url=short_queue) as script:
        script.wait_for("NACKed; trying again")
        with notes.consumer(short_queue):
            assert script.wait() == 0, script
            assert notes.wait_for(orders) == dict.fromkeys(orders, 1)
    assert result(script) == (500, 500)


def test_orders_for_a_deleted_queue_are_published_again(broker: Broker, channel: Any) -> None:
    with Network(broker.port) as network:
        network.hold_up_at(CONFIRM_SELECT)
        with producer(broker, url=network.url()) as script:
            assert network.held.wait(60)
            channel.queue_delete("orders")
            network.release()
            assert script.wait() == 0, script
    assert troubles(script) == ["1 unroutable message(s) returned"]
    assert result(script) == (5, 5) and ready(channel) == 5


def test_connection_that_ends_before_the_confirmation(broker: Broker, channel: Any) -> None:
    with Network(broker.port) as network:
        network.cut_at = PUBLISH
        with changed("impatient_producer", url=network.url()) as script:
            assert script.wait() == 1, script
    assert result(script) == (0, 5) and "confirmed: SAMPLES:1" in script.out
    assert ready(channel) == 0


def test_connection_that_often_breaks_leaves_at_most_a_copy_each(broker: Broker, channel: Any) -> None:
    """Each connection ends after 10 KB, a fraction of the orders."""
    orders = names("A", 300)
    with Network(broker.port) as network:
        network.cut_after = 10_000
        options = {"url": network.url(), "stdin": orders_text(orders)}
        with changed("impatient_producer", "-", **options) as script:
            assert script.wait() == 0, script
        connections = network.connections
    assert connections > 4, "or the three seconds have not begun anew"
    assert script.out.count("trying again") == connections - 1, "each outage is told"
    copies = drain(channel)
    assert set(copies) == set(orders)
    assert 300 <= sum(copies.values()) < 300 + connections


def test_cut_when_all_is_stored_is_no_trouble(broker: Broker, channel: Any) -> None:
    with Network(broker.port) as network:
        network.cut_at = CONNECTION_CLOSE
        with producer(broker, url=network.url()) as script:
            assert script.wait() == 0, script
    assert len(script.lines) == 6 and result(script) == (5, 5)


def test_order_larger_than_the_broker_takes(broker: Broker, channel: Any) -> None:
    text = line("A") + b"\n" + line("B", customer="x" * 17_000_000)
    options = {"url": broker.url(), "stdin": text}
    with changed("impatient_producer", "-", **options) as script:
        assert script.wait() == 1
    assert result(script) == (1, 2) and "confirmed: -:2" in script.out
    assert "larger than" in script.lines[-1]
    assert max(map(len, script.lines)) < 700


# The broker is not there, or does not answer


@pytest.fixture(scope="module")
def memory_alarm(tmp_path_factory: Any) -> Iterator[Broker]:
    """A node that is short of memory from the start."""
    config = "vm_memory_high_watermark.absolute = 1MB\n"
    with running(Broker(tmp_path_factory.mktemp("alarm"), config)) as node:
        yield node


@pytest.fixture(scope="module")
def in_vain(memory_alarm: Broker) -> Iterator[dict[str, Script]]:
    """Producers that have been waiting since the first test of this file."""
    with Script(PRODUCER, url=nowhere()) as nobody, producer(memory_alarm) as alarmed:
        yield {"no broker": nobody, "alarm": alarmed}


@pytest.fixture(autouse=True)
def _start_early(in_vain: Any) -> None:
    """Let the thirty seconds of that wait pass while the other tests run."""


@pytest.mark.parametrize("kind", ["no broker", "alarm"])
def test_gives_up_after_thirty_seconds(in_vain: dict[str, Script], kind: str) -> None:
    script = in_vain[kind]
    assert script.wait() == 1
    took = script.arrivals[-1] - script.started
    assert 30 <= took < 50, script
    assert result(script) == (0, 5) and "confirmed: SAMPLES:1" in script.out
    why = {"no broker": "Connection refused", "alarm": "Blocked connection timeout"}
    assert "Giving up after 30 s" in script.lines[-1] and why[kind] in script.lines[-1]


def test_alarm_that_passes_only_holds_it_up(broker: Broker, channel: Any) -> None:
    broker.rabbitctl_output("set_vm_memory_high_watermark", "absolute", "1MB")
    # On a busy machine, rabbitmqctl alone can take thirty seconds.
    with changed("patient_producer", url=broker.url()) as script:
        try:
            time.sleep(3)  # in which to be wrong
            assert script.lines == [], "nothing is stored yet"
        finally:
            broker.rabbitctl_output("set_vm_memory_high_watermark", "0.6")
        assert script.wait() == 0, script
    assert result(script) == (5, 5) and len(drain(channel)) == 5


# Ctrl-C


def test_interrupted_before_the_confirmation(memory_alarm: Broker) -> None:
    with Network(memory_alarm.port) as network:
        network.hold_up_at(PUBLISH)
        with producer(memory_alarm, url=network.url()) as script:
            assert network.held.wait(60)
            network.release()
            script.signal()
            asked = time.monotonic()
            assert script.wait() == 1
    assert time.monotonic() - asked < 20, "it waits for RabbitMQ, which does not listen"
    assert "Traceback" not in script.out
    assert result(script) == (0, 5) and "confirmed: SAMPLES:1" in script.out


def test_stopped_file_goes_on_at_the_line_that_it_names(broker: Broker, channel: Any, tmp_path: Path) -> None:
    seed = random.randrange(1_000_000)
    print("seed", seed)
    orders = names("A", 1_500)
    path = write_orders(tmp_path / "orders", orders)
    with Network(broker.port) as network:
        network.pause = 0.005  # or it may be done before the signal comes
        with producer(broker, path, url=network.url()) as script:
            script.wait_for("Stored A-00020")
            time.sleep(random.Random(seed).uniform(0, 0.5))
            script.signal()
            assert script.wait() == 1, script
    named = re.search(r"first not confirmed: .*:(\d+)$", script.lines[-1])
    assert named and int(named[1]) == result(script)[0] + 1
    rest = path.read_bytes().splitlines(keepends=True)[int(named[1]) - 1 :]
    with producer(broker, "-", stdin=b"".join(rest)) as script:
        assert script.wait() == 0, script
    copies = drain(channel)
    assert set(copies) == set(orders)
    assert sum(copies.values()) <= 1_501, "only the order in doubt may be there twice"
