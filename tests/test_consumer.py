"""consumer.py against a real RabbitMQ: as a process, as a user runs it, or its functions."""

import json
import re
import socket
import sys
from signal import SIGINT, SIGTERM

import pika
import pytest
from pika.exceptions import ChannelWrongStateError, StreamLostError

import consumer
from rig.network import CONNECTION_CLOSE, Network
from rig.orders import counts, order_json, put, wait_for_ready
from rig.processes import CONSUMER, WORKER, Program, run_consumer


def test_each_failure_is_told_and_tried_again_without_end(slept, monkeypatch, caplog):
    """Those of RabbitMQ and the network in a line, any other with its traceback."""
    failures = [StreamLostError, ChannelWrongStateError, socket.gaierror, Exception] * 500
    kinds = iter([*failures, KeyboardInterrupt])

    def fail():
        raise next(kinds)("why")

    monkeypatch.setattr(consumer, "consume_orders", fail)
    with pytest.raises(KeyboardInterrupt):
        consumer.main()
    for kind, record in zip(failures, caplog.records, strict=True):
        if kind is Exception:
            assert (record.levelname, record.message) == ("ERROR", "Trying again")
            assert record.exc_info[0] is kind
        else:
            told = f"Trying again: {kind('why')!r}"
            assert (record.levelname, record.message) == ("WARNING", told)
            assert not record.exc_info
    assert slept == [3] * len(failures)


@pytest.mark.parametrize(
    "fields",
    [{"amount": 10**9}, {"amount": 0, "status": "paid"}, {"amount": "12.50", "customer": ""}],
)
def test_work_is_two_seconds_on_the_whole_order(fields, channel, slept, monkeypatch, caplog):
    """Beside the work, nothing takes time."""
    worked_on = []
    work = consumer.process_order
    monkeypatch.setattr(consumer, "process_order", lambda order: worked_on.append(dict(order)))
    body = order_json("", items=["x" * 200_000], **fields)
    put(channel, b"hello", body.decode().encode("utf-16"))
    for _ in ["rejected", "done"]:
        consumer.handle_message(channel, *channel.basic_get("orders"))
    assert worked_on == [json.loads(body)] and slept == []
    caplog.clear()
    work(worked_on[0])
    assert slept == [2] and caplog.messages == []


def test_log_tells_what_happens_to_each_order(url, channel):
    """An order whose work fails is tried until it succeeds."""
    name = " Заказ\n" + "Ж" * 100
    body = order_json(name, fails=1)
    put(channel, b"hello", body, order_json("B"))
    process = run_consumer(WORKER, url, until="Processed 'B'", may_say="Rejecting|Failed")
    no_json = pytest.raises(ValueError, json.loads, "hello")
    port = pika.URLParameters(url).port
    assert [record.split("\n")[0] for record in process.records] == [
        f"INFO Connecting to RabbitMQ at 127.0.0.1:{port} (it may be starting)",
        "INFO Waiting for orders. Ctrl-C ends this; an unfinished order comes again",
        f"ERROR Rejecting (InvalidOrder('unreadable JSON: {no_json.value}')): 'hello'",
        f"INFO Received {name!r}, redelivered: False",
        f"ERROR Failed: {body.decode()!r}",
        f"INFO Received {name!r}, redelivered: True",
        f"INFO Worked on {name!r}",
        f"INFO Processed {name!r}",
        "INFO Received 'B', redelivered: False",
        "INFO Worked on 'B'",
        "INFO Processed 'B'",
    ]
    assert process.count("(?s)Traceback.*process_order.*Exception: the card was declined$") == 1
    wait_for_ready(channel, 0)


def test_free_consumer_gets_the_next_order(url, channel):
    """A consumer that works holds no second order, as prefetch_count is 1."""
    with Program(WORKER, url) as busy:
        put(channel, order_json("A", waits=True))
        busy.wait_for("Received 'A'")
        put(channel, *map(order_json, "BCDE"))
        free = run_consumer(WORKER, url, until="Processed 'E'")
        assert free.orders("Processed") == ["B", "C", "D", "E"]
        busy.let_work_end()
        busy.wait_for("Processed 'A'")


def test_deleted_queue_is_told_and_declared_again(url, channel):
    told = "^ERROR .*was the queue deleted"
    with Network(url) as network, Program(CONSUMER, network.url, may_say=told) as process:
        process.wait_for("Waiting for orders")
        channel.queue_delete("orders")
        process.wait_for("Waiting for orders", times=2)
        assert network.sent.count(CONNECTION_CLOSE) == 1, "it closes the first connection"
        assert counts(channel) == (0, 1)
    assert process.count(told) == 1


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


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_order_of_a_consumer_that_ends_is_redelivered(url, channel, number):
    """It ends at once, without a word."""
    put(channel, order_json("A", waits=True), order_json("B"))
    with Program(WORKER, url) as victim:
        victim.wait_for("Received 'A'")
        victim.kill(number)
    wait_for_ready(channel, 2)
    with Program(WORKER, url) as another:
        another.let_work_end()
        another.wait_for("Processed 'B'")
    assert another.count("^INFO Received 'A', redelivered: True$") == 1
    assert another.orders("Processed") == ["A", "B"]


def test_work_can_end_the_consumer(channel, slept, monkeypatch):
    """It raises SystemExit: the order stays with RabbitMQ, unanswered."""
    monkeypatch.setattr(consumer, "process_order", sys.exit)
    put(channel, order_json("A"))
    with pytest.raises(SystemExit):
        consumer.handle_message(channel, *channel.basic_get("orders"))
    assert counts(channel)[0] == 0
    channel.basic_recover(requeue=True)
    wait_for_ready(channel, 1)


@pytest.mark.parametrize("kind", [Exception, KeyError, ValueError, OSError, RecursionError])
def test_failed_order_goes_back_after_a_pause(kind, channel, in_process, monkeypatch, caplog):
    """It goes by basic_reject: RabbitMQ 4.3 does not count what comes back by basic_nack."""
    slept = []

    def fail(order):
        raise kind("price")

    def sleep(connection, seconds):
        slept.append((seconds, counts(channel)[0], caplog.messages[-1]))

    monkeypatch.setattr(consumer, "process_order", fail)
    monkeypatch.setattr("pika.BlockingConnection.sleep", sleep)
    monkeypatch.delattr("pika.adapters.blocking_connection.BlockingChannel.basic_nack")
    body = order_json("A", customer="x" * 10_000)
    put(channel, body)
    for _ in ["first", "second"]:
        consumer.handle_message(channel, *channel.basic_get("orders"))
        wait_for_ready(channel, 1)
    assert slept == [(5, 0, f"Failed: {body.decode()!r}")] * 2, "told, and not back earlier"
    told = caplog.records[-1]
    assert told.levelname == "ERROR" and told.exc_info[0] is kind


def test_rejected_messages_leave_the_queue_and_are_whole_in_the_log(url, channel):
    """As text: Cyrillic can be read, and each byte that is not UTF-8 as \\xNN."""
    binary = bytes(range(256)) * 8
    orders = [order_json("A", amount=None), order_json("A", refused="unknown", x="x" * 10_000)]
    put(channel, binary, *orders, order_json("B"))
    process = run_consumer(WORKER, url, until="Processed 'B'", may_say="Rejecting")
    texts = re.findall(r"ERROR Rejecting \(InvalidOrder\(.+?\)\): (['\"].*)\n", process.log)
    binary_text = "".join(chr(byte) if byte < 128 else f"\\x{byte:02x}" for byte in binary)
    assert texts == [repr(text) for text in [binary_text, *map(bytes.decode, orders)]]
    assert process.count(r"InvalidOrder\('unknown'\)") == 1
    wait_for_ready(channel, 0)
