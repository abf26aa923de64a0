"""consumer.py against a real RabbitMQ: as a process, as a user runs it, or its functions."""

import re
from json import JSONDecodeError
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM

import pytest
from pika.exceptions import AMQPError, ChannelWrongStateError

import consumer
from rig.network import HEARTBEAT, Network
from rig.orders import counts, order_json, put, wait_for
from rig.processes import CONSUMER, WORKER, Program, consume
from rig.waiting import wait_until


class Mixed(ConnectionError, TimeoutError, KeyError, JSONDecodeError, RecursionError, AMQPError):
    """Whichever of these an `except` names, it catches this."""


@pytest.mark.parametrize(("body", "seconds"), [(order_json("A"), [2]), (b"hello", [])])
def test_work_is_two_seconds_and_nothing_else_takes_time(body, seconds, channel, slept):
    put(channel, body)
    consumer.handle_message(channel, *channel.basic_get("orders"))
    assert slept == seconds


def test_log_tells_what_happens_to_each_order(url, channel):
    """An order whose work fails is tried until it succeeds."""
    body = order_json("ЗАКАЗ-Ж", fails=1)
    put(channel, body, order_json("B", amount=-3, status="new"))
    process = consume(WORKER, url, until="Processed 'B'", must_say="Failed")
    assert [record.split("\n")[0] for record in process.records] == [
        "INFO Waiting for orders. Ctrl-C ends this; an unfinished order comes again",
        "INFO Received 'ЗАКАЗ-Ж', redelivered: False",
        f"ERROR Failed: {body!r}",
        "INFO Received 'ЗАКАЗ-Ж', redelivered: True",
        "INFO Worked on 'ЗАКАЗ-Ж'",
        "INFO Processed 'ЗАКАЗ-Ж'",
        "INFO Received 'B', redelivered: False",
        "INFO Worked on 'B'",
        "INFO Processed 'B'",
    ]
    assert process.count("(?s)Traceback.*process_order.*Exception: the card was declined$") == 1
    wait_for(channel, 0)


def test_free_consumer_gets_the_next_order(url, channel):
    """A consumer that works holds no second order, as prefetch_count is 1."""
    with Program(WORKER, url) as busy:
        put(channel, order_json("A", waits=True))
        busy.wait_for("Received 'A'")
        put(channel, *map(order_json, "BCDE"))
        free = consume(WORKER, url, until="Processed 'E'")
        assert free.orders("Processed") == ["B", "C", "D", "E"]
        busy.let_work_end()
        busy.wait_for("Processed 'A'")


def test_idle_consumer_stays_connected_and_says_nothing(url, channel):
    """It is watched until pika has sent two heartbeats, which takes four seconds."""
    with Network(url) as network, Program(CONSUMER, f"{network.url}?heartbeat=4") as process:
        process.wait_for("Waiting for orders")
        states = []

        def heartbeats():
            states.append(Path(f"/proc/{process.process.pid}/stat").read_text().split()[2])
            return network.sent.count(HEARTBEAT)

        wait_until(lambda: heartbeats() >= 2, "heartbeats")
        assert states.count("S") > states.count("R"), "it runs in a busy loop instead of sleeping"
        assert process.count("") == process.count("Waiting for orders") == 1
        put(channel, order_json("A"))
        process.wait_for("Processed 'A'")


@pytest.mark.parametrize(("body", "told"), [(order_json("A"), "Received 'A'"), (b"", "Rejecting")])
def test_answer_that_fails_is_not_called_done(body, told, channel, slept, caplog):
    """Processed is said after the acknowledgement, Rejecting before the message can be gone."""
    put(channel, body)
    receiving = channel.connection.channel()
    message = receiving.basic_get("orders")
    receiving.close()
    with pytest.raises(ChannelWrongStateError):
        consumer.handle_message(receiving, *message)
    assert [re.split(r",| \(", text)[0] for text in caplog.messages] == [told]


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
    assert another.count("^INFO Received 'A', redelivered: True$") == 1
    assert another.orders("Processed") == ["A", "B"]


def test_exit_in_the_work_ends_the_program(url, channel):
    put(channel, order_json("A", exits=True))
    with Program(WORKER, url) as process:
        assert process.wait() == 3
    wait_for(channel, 1)


@pytest.mark.parametrize(
    "kind", [Mixed, ArithmeticError, AssertionError, AttributeError, MemoryError, TypeError]
)
def test_failed_order_goes_back_after_a_pause(kind, channel, in_process, monkeypatch, caplog):
    """It goes by basic_reject: RabbitMQ 4.3 does not count what comes back by basic_nack."""
    slept = []

    def fail(argument):
        raise kind("price")

    def sleep(seconds):
        slept.append((seconds, counts(channel)[0], caplog.messages[-1]))

    monkeypatch.setattr("json.loads" if kind is MemoryError else "consumer.process_order", fail)
    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.delattr("pika.adapters.blocking_connection.BlockingChannel.basic_nack")
    body = order_json("A", customer="x" * 10_000)
    put(channel, body)
    for _ in ["new", "redelivered"]:
        consumer.handle_message(channel, *channel.basic_get("orders"))
        wait_for(channel, 1)
    assert slept == [(5, 0, f"Failed: {body!r}")] * 2, "told, and not back before the pause"
    told = caplog.records[-1]
    assert told.levelname == "ERROR" and told.exc_info[0] is kind


CRAFTED = ["\x1b[2J", "A\x85\u2028\u202eZ", "A\r\n2026-11-25 20:30:15,297 INFO Processed FORGED"]


def test_rejected_messages_leave_the_queue_and_are_whole_in_the_log(url, channel):
    """No message can forge a line of the log, nor steer the terminal.

    Unless the work puts a part of it into an exception of its own: a traceback shows that.
    """
    no_orders = [b"hello", order_json("A", amount=None), bytes(range(256)) * 400]
    no_orders += [text.encode() for text in CRAFTED]
    refused = [order_json("A", refused=text) for text in ["unknown customer", *CRAFTED]]
    failing = [order_json(text, fails=1) for text in CRAFTED]
    put(channel, *no_orders, *refused, *failing, order_json("B"))
    process = consume(WORKER, url, until="Processed 'B'", must_say="Rejecting|Failed")
    bodies = re.findall(r"ERROR Rejecting \(InvalidOrder\(.+?\)\): (b['\"].*)\n", process.log)
    assert bodies == [repr(body) for body in no_orders + refused]
    assert process.count(r"InvalidOrder\('unknown customer'\)") == 1
    done = ["Received", "Worked", "Processed"]
    expected = ["Waiting"] + ["Rejecting"] * len(no_orders)
    expected += ["Received", "Rejecting"] * len(refused)
    expected += ["Received", "Failed:", *done] * len(failing) + done
    assert [record.split()[1] for record in process.records] == expected
    assert all(line.isprintable() for line in process.log.split("\n"))
    wait_for(channel, 0)
