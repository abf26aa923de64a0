"""consumer.py as a process, as a user runs it, against a real RabbitMQ."""

import json
import os
import time
from pathlib import Path
from signal import SIGINT, SIGTERM

import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

import consumer
from rig.network import BASIC_REJECT, Network
from rig.node import LIMIT, Node, free_port, wait_until
from rig.orders import SAMPLE_IDS, order_json, put, put_orders, ready_count, take_orders
from rig.processes import run_consumer, run_producer, start_consumer

either_signal = pytest.mark.parametrize("number", [SIGINT, SIGTERM], ids=["SIGINT", "SIGTERM"])

# The work on an order


def test_five_orders_take_two_seconds_each(node: Node, channel: Channel) -> None:
    run_producer(node)
    process = run_consumer(node, until="Processed 'ORD-005'")
    assert process.received == process.processed == SAMPLE_IDS
    begins, ends = process.moments("Received"), process.moments("Processed")
    for begin, end in zip(begins, ends, strict=True):
        assert 1.9 < end - begin < 2.9
    assert ends[-1] - begins[0] < 14.5
    assert ready_count(channel) == 0


def test_log_tells_what_happens_to_an_order_and_names_no_customer(
    node: Node, channel: Channel
) -> None:
    put_orders(channel, "ЗАКАЗ-Ж")
    assert run_consumer(node, until="Processed").lines == [
        "INFO Waiting for orders (Ctrl-C stops after the current order)",
        "INFO Received 'ЗАКАЗ-Ж'",
        "INFO Processed 'ЗАКАЗ-Ж'",
        "INFO Stopped",
    ]


def test_free_consumer_gets_the_next_order(node: Node, channel: Channel) -> None:
    """While another one works: prefetch_count=1 leaves nothing else with that."""
    with start_consumer(node, work="gate") as busy:
        put_orders(channel, "A")
        busy.wait_for("Received 'A'")
        put_orders(channel, *"BCDE")
        free = run_consumer(node, work="nothing", until="Processed 'E'")
        assert free.processed == ["B", "C", "D", "E"]
        busy.open_gate()
        busy.wait_for("Processed 'A'")


def processor_time(pid: int) -> float:
    """Return how many seconds a process has used: see man 5 proc."""
    user, system = Path(f"/proc/{pid}/stat").read_text().split()[13:15]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_waiting_costs_no_processor_time(node: Node) -> None:
    with start_consumer(node) as process:
        process.wait_for("Waiting for orders")
        before = processor_time(process.process.pid)
        time.sleep(5)
        assert processor_time(process.process.pid) - before < 0.5


# It is killed or stopped


def test_order_of_a_killed_consumer_is_redelivered(node: Node, channel: Channel) -> None:
    put_orders(channel, "A")
    with start_consumer(node, work="gate") as victim:
        victim.wait_for("Received 'A'")
        victim.kill()
    another = run_consumer(node, work="nothing", until="Processed 'A'")
    assert victim.redelivered == []
    assert another.redelivered == ["A"]


@either_signal
def test_signal_lets_it_complete_the_current_order(
    node: Node, channel: Channel, number: int
) -> None:
    put_orders(channel, "A", "B", "C")
    with start_consumer(node, work="gate") as process:
        process.wait_for("Received 'A'")
        process.send(number)
        process.open_gate()
        assert process.wait() == 0
    assert process.lines[-2:] == ["INFO Processed 'A'", "INFO Stopped"]
    assert take_orders(channel) == {"B": 1, "C": 1}


@either_signal
def test_second_signal_ends_it_at_once(node: Node, channel: Channel, number: int) -> None:
    put_orders(channel, "A")
    with start_consumer(node, work="gate") as process:
        process.wait_for("Received 'A'")
        process.send(number)
        time.sleep(1)  # or the two may be one
        process.kill(number)
    wait_until(lambda: ready_count(channel) == 1, "A is back in the queue")


def test_idle_consumer_stops_soon(node: Node) -> None:
    with start_consumer(node) as process:
        process.wait_for("Waiting for orders")
        begin = time.time()
        process.stop()
    assert process.ended - begin < 3


def test_consumer_stops_while_rabbitmq_is_away() -> None:
    url = f"amqp://127.0.0.1:{free_port()}"
    with start_consumer(url, errors="ConnectionRefused") as process:
        process.wait_for("ConnectionRefused")
        process.stop()


# Work that fails


def test_failed_work_is_rejected_after_five_seconds(node: Node, channel: Channel) -> None:
    """Rejected, because RabbitMQ 4.3 does not count a basic.nack (README, "On a server")."""
    put_orders(channel, "A")
    with Network(node.port) as network:
        network.hold_at = BASIC_REJECT
        with start_consumer(
            network, errors="Failed 'A'", work="failure", on="A", times=1
        ) as process:
            process.wait_for("Failed 'A'")
            assert network.held.wait(LIMIT), "basic.reject was not sent"
            rejected = time.time()
            network.go_on.set()
            process.wait_for("Processed 'A'")
            process.stop()
    (failed,) = process.moments("Failed 'A'")
    assert 4.9 < rejected - failed < 7
    assert process.redelivered == ["A"]
    assert ready_count(channel) == 0


def test_failed_work_leaves_its_traceback(node: Node, channel: Channel) -> None:
    put_orders(channel, "A")
    failure = {"work": "failure", "on": "A", "times": 1, "pause": 0}
    process = run_consumer(node, until="Processed 'A'", errors="Failed 'A'", **failure)
    assert process.count("^Traceback ") == 1
    assert process.count("in failure$") == 1, "where in the user's code"
    assert process.count("^ValueError: the card was declined$") == 1


def test_order_is_tried_until_its_work_succeeds(node: Node, channel: Channel) -> None:
    put_orders(channel, "A", "B")
    failure = {"work": "failure", "on": "A", "times": 100, "pause": 0}
    process = run_consumer(node, until="Processed 'B'", errors="Failed 'A'", **failure)
    assert process.received == ["A"] * 101 + ["B"]
    assert process.processed == ["A", "B"]


def test_order_that_fails_while_the_consumer_stops_is_kept(node: Node, channel: Channel) -> None:
    put_orders(channel, "A", "B")
    failure = {"work": "failure", "on": "A", "times": 1, "pause": 3}
    with start_consumer(node, errors="Failed 'A'", **failure) as process:
        process.wait_for("Failed 'A'")
        process.stop()
    assert process.received == ["A"]
    assert take_orders(channel) == {"A": 1, "B": 1}


# Messages that are no orders

NO_ORDERS = [b"hello", order_json("A", amount=True), b"[" * 200_000, bytes(range(256)) * 4]


def test_messages_that_are_no_orders_leave_the_queue_and_are_in_the_log(
    node: Node, channel: Channel
) -> None:
    put(channel, *NO_ORDERS, order_json("B"))
    process = run_consumer(node, until="Processed 'B'", errors="^ERROR Rejecting")
    bodies = process.texts(r"^ERROR Rejecting a message that is not an order \(.+?\): (b['\"].*)$")
    assert bodies == [repr(body) for body in NO_ORDERS]
    assert process.received == ["B"]
    assert ready_count(channel) == 0


def test_bug_in_parse_order_rejects_no_order(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse_order(body: bytes) -> dict:
        return json.lods(body)  # type: ignore[attr-defined, no-any-return]

    monkeypatch.setattr(consumer, "parse_order", parse_order)
    put_orders(channel, "A")
    with channel.connection.channel() as receiving:
        method, _, body = receiving.basic_get("orders")
        with pytest.raises(AttributeError):
            consumer.handle_message(receiving, method, body)
    assert take_orders(channel) == {"A": 1}


CRAFTED = ["\x1b[2J", "\x9b31m", "A\x85\u2028\u2029Z", "\u202eDEGROF\u202c", "A\x00\x08"]
CRAFTED += [f"A{end}2026-11-25 20:30:15,297 INFO Processed FORGED" for end in "\n\r"]


def test_message_can_neither_forge_a_log_line_nor_steer_the_terminal(
    node: Node, channel: Channel
) -> None:
    put(channel, *map(order_json, CRAFTED))
    put(channel, *(order_json("A", amount=text) for text in CRAFTED))
    put(channel, *(text.encode() for text in CRAFTED), order_json("B"))
    process = run_consumer(node, until="Processed 'B'", errors="Rejecting", work="nothing")
    assert process.count("^(INFO|ERROR) (Received|Processed|Rejecting)") == 4 * len(CRAFTED) + 2
    assert len(process.lines) == 4 * len(CRAFTED) + 4
    assert all(line.isprintable() for line in process.lines)
