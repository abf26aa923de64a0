"""consumer.py against a real RabbitMQ: as a process, as a user runs it, or its functions."""

import time
from signal import SIGINT, SIGTERM

import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

import consumer
from rig.network import BASIC_REJECT, Network
from rig.node import LIMIT, free_port, wait_until
from rig.orders import counts, order_json, put, put_orders, take_orders
from rig.processes import CONSUMER, WORKER, Program, run

either_signal = pytest.mark.parametrize("number", [SIGINT, SIGTERM], ids=["SIGINT", "SIGTERM"])

# The work on an order


def test_work_is_two_seconds(slept: list[float]) -> None:
    consumer.process_order({})
    assert slept == [2]


def test_log_tells_what_happens_to_an_order_and_names_no_customer(
    url: str, channel: Channel
) -> None:
    put(channel, order_json("ЗАКАЗ-Ж", fails=1))
    process = run(WORKER, url, 0, until="Processed", errors="Failed")
    assert [line for line in process.lines if line.startswith(("INFO", "ERROR"))] == [
        "INFO Waiting for orders (Ctrl-C stops after the current order)",
        "INFO Received 'ЗАКАЗ-Ж'",
        "ERROR Failed 'ЗАКАЗ-Ж'",
        "INFO Received 'ЗАКАЗ-Ж' (redelivered)",
        "INFO Processed 'ЗАКАЗ-Ж'",
        "INFO Stopped",
    ]
    assert "Иван" not in "".join(process.log)


def test_free_consumer_gets_the_next_order(url: str, channel: Channel) -> None:
    """While another one works: prefetch_count=1 leaves nothing else with that."""
    with Program(WORKER, url) as busy:
        put(channel, order_json("A", waits=True))
        busy.wait_for("Received 'A'")
        put_orders(channel, *"BCDE")
        free = run(WORKER, url, until="Processed 'E'")
        assert free.orders("Processed") == ["B", "C", "D", "E"]
        busy.let_work_end()
        busy.wait_for("Processed 'A'")


# It is killed or stopped


def test_order_of_a_killed_consumer_is_redelivered(url: str, channel: Channel) -> None:
    put(channel, order_json("A", waits=True))
    with Program(WORKER, url) as victim:
        victim.wait_for("Received 'A'")
        victim.kill()
    another = run(CONSUMER, url, until="Processed 'A'")
    assert (victim.count("redelivered"), another.count("redelivered")) == (0, 1)


@either_signal
def test_signal_lets_it_complete_the_current_order(url: str, channel: Channel, number: int) -> None:
    put(channel, order_json("A", waits=True), order_json("B"), order_json("C"))
    with Program(WORKER, url) as process:
        process.wait_for("Received 'A'")
        process.send(number)
        process.let_work_end()
        assert process.wait() == 0
    assert process.lines[-2:] == ["INFO Processed 'A'", "INFO Stopped"]
    assert take_orders(channel) == {"B": 1, "C": 1}


@either_signal
def test_second_signal_ends_it_at_once(url: str, channel: Channel, number: int) -> None:
    put(channel, order_json("A", waits=True))
    with Program(WORKER, url) as process:
        process.wait_for("Received 'A'")
        process.send(number)
        process.kill(number)
    wait_until(lambda: counts(channel) == (1, 0), "A is back in the queue")


def test_order_that_fails_after_a_signal_is_kept(url: str, channel: Channel) -> None:
    put(channel, order_json("A", waits=True, fails=1))
    with Program(WORKER, url, 0, errors="Failed 'A'") as process:
        process.wait_for("Received 'A'")
        process.send(SIGINT)
        process.let_work_end()
        assert process.wait() == 0
    assert take_orders(channel) == {"A": 1}


def test_no_order_is_begun_after_a_signal(channel: Channel, slept: list[float]) -> None:
    put_orders(channel, "A")
    consumer.stopping = True
    consumer.consume_orders()
    assert take_orders(channel) == {"A": 1}


def test_idle_consumer_looks_twice_a_second_whether_to_stop(slept: list[float]) -> None:
    """The quickest time of three, because a busy machine can hold up any other."""
    consumer.stopping = True
    took = []
    for _ in range(3):
        begin = time.monotonic()
        consumer.consume_orders()
        took.append(time.monotonic() - begin)
    assert 0.4 < min(took) < 1


def test_connection_is_tried_again_each_second(
    slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(seconds: float) -> None:
        slept.append(seconds)
        consumer.stopping = len(slept) == 100

    monkeypatch.setattr("time.sleep", sleep)
    consumer.RABBITMQ.port = free_port()
    consumer.main()
    assert slept == [1] * 100


# Work that fails


def test_failed_work_is_rejected_after_five_seconds(url: str, channel: Channel) -> None:
    """Rejected, because RabbitMQ 4.3 does not count a basic.nack (README, "On a server")."""
    put(channel, order_json("A", fails=1))
    with Network(url, hold_at=BASIC_REJECT) as network:
        with Program(WORKER, network.url, errors="Failed 'A'") as process:
            process.wait_for("Failed 'A'")
            assert network.held.wait(LIMIT), "basic.reject was not sent"
            rejected = time.time()
            network.go_on.set()
            process.wait_for("Processed 'A'")
            process.stop()
    assert rejected - process.moments("Failed 'A'")[0] > 4.9
    assert process.count("^Traceback ") == 1
    assert process.count("in process_order$") == 1, "where in the user's code"
    assert process.count("Declined: the card was declined$") == 1
    assert counts(channel) == (0, 0)


@pytest.mark.parametrize("function", ["parse_order", "process_order"])
def test_each_failure_is_told_and_keeps_the_order(
    function: str,
    channel: Channel,
    slept: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also one in a rule of the user's own; and the pause comes each time."""
    kinds = [KeyError, NameError, OSError, RecursionError]
    failures = iter(kinds)

    def fail(argument: object) -> dict:
        raise next(failures)("price")

    monkeypatch.setattr(consumer, function, fail)
    put_orders(channel, "A")
    name = repr(order_json("A")) if function == "parse_order" else "'A'"
    for kind in kinds:
        with channel.connection.channel() as receiving:
            method, _, body = receiving.basic_get("orders")
            consumer.handle_message(receiving, method, body)
        told = caplog.records[-1]
        assert (told.levelname, told.getMessage()) == ("ERROR", f"Failed {name}")
        assert told.exc_info and told.exc_info[0] is kind
    assert slept == [5, 5, 5, 5]
    assert take_orders(channel) == {"A": 1}


def test_exit_in_the_work_ends_the_program(url: str, channel: Channel) -> None:
    put(channel, order_json("A", exits=True))
    with Program(WORKER, url) as process:
        assert process.wait() == 1
    wait_until(lambda: counts(channel) == (1, 0), "A is back in the queue")


def test_order_is_tried_until_its_work_succeeds(url: str, channel: Channel) -> None:
    put(channel, order_json("A", fails=100), order_json("B"))
    process = run(WORKER, url, 0, until="Processed 'B'", errors="Failed 'A'")
    assert process.orders("Received") == ["A"] * 101 + ["B"]
    assert process.orders("Processed") == ["A", "B"]


# Messages that are rejected for good

REFUSED = order_json("A", refused="unknown customer")
REJECTED = [b"hello", order_json("A", amount=True), bytes(range(256)) * 400, REFUSED]


def test_rejected_messages_leave_the_queue_and_are_whole_in_the_log(
    url: str, channel: Channel
) -> None:
    put(channel, *REJECTED, order_json("B"))
    process = run(WORKER, url, until="Processed 'B'", errors="^ERROR Rejecting")
    bodies = process.texts(r"^ERROR Rejecting \(InvalidOrder\(.+?\)\): (b['\"].*)$")
    assert bodies == [repr(body) for body in REJECTED]
    assert process.texts(r"InvalidOrder\('(unknown .*?)'") == ["unknown customer"]
    assert process.orders("Received") == ["A", "B"]
    assert counts(channel) == (0, 0)


CRAFTED = ["\x1b[2J", "\x9b31m", "A\x85\u2028\u2029Z", "\u202eDEGROF\u202c", "A\x00\x08"]
CRAFTED += [f"A{end}2026-11-25 20:30:15,297 INFO Processed FORGED" for end in "\n\r"]


def test_message_can_neither_forge_a_log_line_nor_steer_the_terminal(
    url: str, channel: Channel
) -> None:
    """Unless the work puts a part of it into an exception of its own: a traceback shows that."""
    put(channel, *(text.encode() for text in CRAFTED))
    put(channel, *(order_json(text, fails=1) for text in CRAFTED))
    put(channel, *(order_json("A", refused=text) for text in CRAFTED), order_json("B"))
    process = run(WORKER, url, 0, until="Processed 'B'", errors="Rejecting|Failed")
    said = [line for line in process.log if line.startswith("20")]
    # Rejected; received, failed, received, processed; received, rejected. B: received, processed.
    assert len(said) == len(CRAFTED) * (1 + 4 + 2) + 2 + len(["Waiting", "Stopped"])
    assert all(line.isprintable() for line in process.log)
