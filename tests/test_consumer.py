"""consumer.py against a real RabbitMQ: as a process, as a user runs it, or its functions."""

import codecs
import json
import re
import sys
from signal import SIGINT, SIGTERM
from socket import gaierror
from unittest.mock import Mock, call

import pytest
from pika import exceptions

import consumer
from rig.network import CONNECTION_CLOSE, Network
from rig.orders import counts, order_json, put, wait_for_ready
from rig.processes import CONSUMER, WORKER, Program


def test_each_failure_is_told_and_tried_again(monkeypatch, caplog):
    """Those of RabbitMQ and the network in a line, others with a traceback; sys.exit() is none."""
    in_a_line = [exceptions.StreamLostError(), exceptions.ProbableAuthenticationError()]
    in_a_line += [exceptions.ConnectionClosedByBroker(320, "stops"), gaierror(), OSError()]
    cancelled = None  # then consume_orders() returns
    ends = [cancelled, *in_a_line, TypeError("why")] * 20
    monkeypatch.setattr(consumer, "consume_orders", Mock(side_effect=[*ends, SystemExit()]))
    monkeypatch.setattr("time.sleep", sleep := Mock(side_effect=[None] * len(ends)))
    monkeypatch.setattr("signal.signal", lambda number, reaction: None)
    with pytest.raises(SystemExit):
        consumer.main()
    told = [(each.levelname, each.message, bool(each.exc_info)) for each in caplog.records]
    expected = [("WARNING", f"Trying again: {failure!r}", False) for failure in in_a_line]
    expected.append(("ERROR", "Trying again", True))
    assert told == expected * 20
    assert {each.name for each in caplog.records} == {"consumer"}, "another logger"
    assert sleep.mock_calls == [call(3)] * len(ends)


def test_failure_closes_the_connection_and_is_tried_again(url, channel):
    """The queue is another one. Connections that stay open would pile up at RabbitMQ."""
    channel.queue_declare("orders", durable=True, arguments={"x-max-priority": 5})
    told = "^WARNING Trying again: .*PRECONDITION_FAILED"
    with (
        Network(url, CONNECTION_CLOSE, Network.watch) as network,
        Program(CONSUMER, network.url, may_say=told) as process,
    ):
        process.wait_for(told, times=2)
        assert network.key_came.is_set(), "the connection stayed open"


def test_work_takes_two_seconds(channel, monkeypatch):
    """There is no other pause, not even for a message that is rejected."""
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("pika.BlockingConnection.sleep", lambda *arguments: slept.append(arguments))
    put(channel, b"hello", order_json("A"))
    for _ in ["rejected", "done"]:
        consumer.handle_message(channel, *channel.basic_get("orders"))
    assert slept == [2]


def test_failed_order_comes_again_until_it_succeeds(url, channel):
    """The log tells it in lines: one order_id has a line break, another is a number; with a BOM."""
    body = codecs.BOM_UTF8 + order_json("Заказ\n1", fails=1, note="Ж" * 10_000)
    put(channel, body, order_json(2, customer={}, amount="", status=False))
    with Program(WORKER, url, may_say="^ERROR Failed") as process:
        process.wait_for("Processed 2")
    assert [record.split("\n")[0] for record in process.records] == [
        f"INFO Connecting to RabbitMQ at {url.split('@')[1]} (it may be starting)",
        "INFO Waiting for orders. Ctrl-C ends this; an unfinished order comes again",
        r"INFO Received 'Заказ\n1', redelivered: False",
        f"ERROR Failed: {body.decode()!r}",
        r"INFO Received 'Заказ\n1', redelivered: True",
        r"INFO Worked on 'Заказ\n1'",
        r"INFO Processed 'Заказ\n1'",
        "INFO Received 2, redelivered: False",
        "INFO Worked on 2",
        "INFO Processed 2",
    ]
    assert process.count("(?s)Traceback.*process_order.*Exception: the card was declined$") == 1
    wait_for_ready(channel, 0)


def test_free_consumer_gets_the_next_order(url, channel):
    """A consumer that works holds no second order, as prefetch_count is 1."""
    with Program(WORKER, url) as busy:
        put(channel, order_json("A", waits=True))
        busy.wait_for("Works on 'A'")
        put(channel, *map(order_json, "BCDB"))
        with Program(WORKER, url) as free:
            free.wait_for("Processed 'B'", times=2)
        assert free.orders("Processed") == ["B", "C", "D", "B"]


def test_deleted_queue_is_told_and_declared_again(url, channel):
    told = "^ERROR .*was the queue deleted"
    with Program(CONSUMER, url, may_say=told) as process:
        process.wait_for("Waiting for orders")
        channel.queue_delete("orders")
        process.wait_for("Waiting for orders", times=2)
    assert process.count(told) == 1 and process.count("Connecting") == 2


@pytest.mark.parametrize("is_order", [True, False])
def test_answer_that_fails_is_not_called_done(is_order, channel, monkeypatch, caplog):
    """Processed is said after the acknowledgement, Rejecting before the message can be gone."""
    body, told = (order_json("A"), "Received 'A'") if is_order else (b"", "Rejecting")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    put(channel, body)
    receiving = channel.connection.channel()
    message = receiving.basic_get("orders")
    receiving.close()
    with pytest.raises(exceptions.ChannelWrongStateError):
        consumer.handle_message(receiving, *message)
    assert [message[: len(told)] for message in caplog.messages] == [told]


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_order_of_a_consumer_that_ends_is_redelivered(url, channel, number):
    """It ends without a word."""
    put(channel, order_json("A", waits=True), order_json("B"))
    with Program(WORKER, url) as victim:
        victim.wait_for("Works on 'A'")
        victim.kill(number)
    wait_for_ready(channel, 2)
    with Program(WORKER, url) as another:
        another.let_work_end()
        another.wait_for("Processed 'B'")
    assert another.count("^INFO Received 'A', redelivered: True$") == 1
    assert another.orders("Processed") == ["A", "B"]


def test_failed_order_goes_back_after_a_pause(channel, monkeypatch, caplog):
    """By basic_reject: RabbitMQ 4.3 does not count what comes back by basic_nack."""
    slept = []
    errors = [KeyError("A"), AssertionError(), RuntimeError(), OSError(), exceptions.AMQPError()]
    errors.append(json.JSONDecodeError("", "", 0))

    def fail(order):
        raise errors[len(slept)]

    def sleep(connection, seconds):
        slept.append((seconds, counts(channel)[0], caplog.messages[-1]))

    monkeypatch.setattr(consumer, "process_order", fail)
    monkeypatch.setattr("pika.BlockingConnection.sleep", sleep)
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.delattr("pika.adapters.blocking_connection.BlockingChannel.basic_nack")
    body = order_json("A")
    put(channel, body)
    for _ in errors:
        consumer.handle_message(channel, *channel.basic_get("orders"))
        wait_for_ready(channel, 1)
    expected = (5, 0, f"Failed: {body.decode()!r}")
    assert slept == [expected] * len(errors), "told, with heartbeats, not back earlier"


def test_work_that_calls_sys_exit_ends_the_consumer(channel, monkeypatch):
    monkeypatch.setattr(consumer, "process_order", sys.exit)
    put(channel, order_json("A"))
    with pytest.raises(SystemExit):
        consumer.handle_message(channel, *channel.basic_get("orders"))


def test_rejected_messages_leave_the_queue_and_are_whole_in_the_log(url, channel):
    """As text: Cyrillic can be read, and each byte that is not UTF-8 as \\xNN."""
    invalid = order_json("A", amount=None, note="Ж" * 10_000)
    orders = [invalid, order_json("A", refused="unknown customer")]
    put(channel, b"\x00\xff\n", *orders, order_json("B"))
    with Program(WORKER, url, may_say="^ERROR Rejecting") as process:
        process.wait_for("Processed 'B'")
    texts = re.findall(r"ERROR Rejecting \(InvalidOrder\(.+?\)\): (.*)\n", process.log)
    assert texts == [r"'\x00\\xff\n'", *(repr(order.decode()) for order in orders)]
    assert process.count(r"InvalidOrder\('unknown customer'\)") == 1
    wait_for_ready(channel, 0)
