"""consumer.py against a real RabbitMQ: as a process, as a user runs it, or its functions."""

from signal import SIGINT, SIGKILL, SIGTERM

import pytest
from pika.exceptions import ChannelWrongStateError

import consumer
from rig.network import BASIC_REJECT, Network
from rig.node import wait_until
from rig.orders import counts, order_json, put, wait_for
from rig.processes import CONSUMER, WORKER, Program, consume

HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"  # a frame of AMQP


def handle_next(channel):
    """Let handle_message() have the next message, as start_consuming() does."""
    consumer.handle_message(channel, *channel.basic_get("orders"))


class Mixed(OSError, KeyError, ValueError, TypeError, ArithmeticError, RecursionError):
    """Whichever of these an `except` names, it catches this."""


# Messages that it acknowledges


@pytest.mark.parametrize(("body", "seconds"), [(order_json("A"), [2]), (b"hello", [])])
def test_work_is_two_seconds_and_nothing_else_takes_time(body, seconds, channel, slept):
    put(channel, body)
    handle_next(channel)
    assert slept == seconds


def test_log_tells_what_happens_to_each_order(url, channel):
    """And an order whose work fails is tried until it succeeds.

    It is rejected, because RabbitMQ 4.3 does not count a basic.nack (README, "On a server").
    """
    body = order_json("ЗАКАЗ-Ж", fails=2)
    put(channel, body, order_json("B"))
    with Network(url) as network:
        process = consume(WORKER, network.url, until="Processed 'B'", must_say="Failed")
        assert network.sent.count(BASIC_REJECT) == 2
    assert [record.split("\n")[0] for record in process.records] == [
        "INFO Waiting for orders. Ctrl-C ends this; an unfinished order comes again",
        "INFO Received 'ЗАКАЗ-Ж'",
        f"ERROR Failed: {body!r}",
        "INFO Received 'ЗАКАЗ-Ж' (redelivered)",
        f"ERROR Failed: {body!r}",
        "INFO Received 'ЗАКАЗ-Ж' (redelivered)",
        "INFO Worked on 'ЗАКАЗ-Ж'",
        "INFO Processed 'ЗАКАЗ-Ж'",
        "INFO Received 'B'",
        "INFO Worked on 'B'",
        "INFO Processed 'B'",
    ]
    assert process.count(r"in process_order\n[^$]*Declined: the card was declined$") == 2
    wait_for(channel, 0)


def test_free_consumer_gets_the_next_order(url, channel):
    """While another one works: prefetch_count=1 leaves nothing else with that."""
    with Program(WORKER, url) as busy:
        put(channel, order_json("A", waits=True))
        busy.wait_for("Received 'A'")
        put(channel, *map(order_json, "BCDE"))
        free = consume(WORKER, url, until="Processed 'E'")
        assert free.orders("Processed") == ["B", "C", "D", "E"]
        busy.let_work_end()
        busy.wait_for("Processed 'A'")


def test_idle_consumer_stays_connected_and_says_nothing(url, channel):
    """For four seconds. pika sends a heartbeat after half of what RabbitMQ may wait for it."""
    with Network(url) as network, Program(CONSUMER, f"{network.url}?heartbeat=4") as process:
        wait_until(lambda: network.sent.count(HEARTBEAT) >= 2, "heartbeats")
        assert process.count("") == process.count("Waiting for orders") == 1
        put(channel, order_json("A"))
        process.wait_for("Processed 'A'")


@pytest.mark.parametrize(
    ("body", "told"), [(order_json("A"), "Received 'A'"), (b"hello", "Rejecting")]
)
def test_answer_that_fails_is_not_called_done(body, told, channel, slept, caplog):
    """Processed is said after the acknowledgement, Rejecting before the message can be gone."""
    put(channel, body)
    receiving = channel.connection.channel()
    message = receiving.basic_get("orders")
    receiving.close()
    with pytest.raises(ChannelWrongStateError):
        consumer.handle_message(receiving, *message)
    assert [text.split(" (")[0] for text in caplog.messages] == [told]


# It is stopped or killed


@pytest.mark.parametrize("number", [SIGINT, SIGTERM, SIGKILL])
def test_order_of_a_consumer_that_ends_is_redelivered(url, channel, number):
    """It ends at once, without a word."""
    put(channel, order_json("A", waits=True), order_json("B"))
    with Program(WORKER, url) as victim:
        victim.wait_for("Received 'A'")
        victim.kill(number)
    wait_for(channel, 2)
    with Program(WORKER, url) as another:
        another.let_work_end()
        another.wait_for("Processed 'B'")
    assert another.count(r"^INFO Received .* \(redelivered\)$") == 1
    assert another.orders("Processed") == ["A", "B"]


def test_exit_in_the_work_ends_the_program(url, channel):
    put(channel, order_json("A", exits=True))
    with Program(WORKER, url) as process:
        assert process.wait() == 3
    wait_for(channel, 1)


# Work that fails


@pytest.mark.parametrize("function", ["parse_order", "process_order"])
@pytest.mark.parametrize("kind", [Mixed, AttributeError, MemoryError])
def test_failed_order_goes_back_after_five_seconds(
    function, kind, channel, in_process, monkeypatch, caplog
):
    """Also after a failure in a rule of the user's own."""
    slept = []

    def fail(argument):
        raise kind("price")

    def sleep(seconds):
        slept.append((seconds, counts(channel)[0], caplog.messages[-1][:6]))

    monkeypatch.setattr(consumer, function, fail)
    monkeypatch.setattr("time.sleep", sleep)
    body = order_json("A", customer="x" * 10_000)
    put(channel, body)
    handle_next(channel)
    assert slept == [(5, 0, "Failed")], "told, and not back before the pause"
    wait_for(channel, 1)
    told = caplog.records[-1]
    assert (told.levelname, told.getMessage()) == ("ERROR", f"Failed: {body!r}")
    assert told.exc_info and told.exc_info[0] is kind


# Messages that are rejected for good

REFUSED = order_json("A", refused="unknown customer")
REJECTED = [b"hello", order_json("A", amount=True), bytes(range(256)) * 400, REFUSED]


def test_rejected_messages_leave_the_queue_and_are_whole_in_the_log(url, channel):
    put(channel, *REJECTED, order_json("B"))
    process = consume(WORKER, url, until="Processed 'B'", must_say="^ERROR Rejecting")
    bodies = process.texts(r"^ERROR Rejecting \(InvalidOrder\(.+?\)\): (b['\"].*)$")
    assert bodies == [repr(body) for body in REJECTED]
    assert process.texts(r"InvalidOrder\('(unknown .*?)'") == ["unknown customer"]
    assert process.orders("Received") == ["A", "B"]
    wait_for(channel, 0)


CRAFTED = ["\x1b[2J", "\x9b31m", "A\x85\u2028\u2029Z", "\u202eDEGROF\u202c", "A\x00\x08"]
CRAFTED += [f"A{end}2026-11-25 20:30:15,297 INFO Processed FORGED" for end in "\n\r"]


def test_message_can_neither_forge_a_log_line_nor_steer_the_terminal(url, channel):
    """Unless the work puts a part of it into an exception of its own: a traceback shows that."""
    put(channel, *(text.encode() for text in CRAFTED))
    put(channel, *(order_json(text, fails=1) for text in CRAFTED))
    put(channel, *(order_json("A", refused=text) for text in CRAFTED), order_json("B"))
    process = consume(WORKER, url, until="Processed 'B'", must_say="Rejecting|Failed")
    # Rejected; received, failed, received, worked on, processed; received, rejected. B's are three.
    assert len(process.records) == len(["Waiting"]) + len(CRAFTED) * (1 + 5 + 2) + 3
    assert all(line.isprintable() for line in process.log)
