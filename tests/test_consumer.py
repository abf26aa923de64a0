"""consumer.py against a real RabbitMQ: as a process, as a user runs it, or its functions."""

import json
import re
import time
from unittest.mock import Mock, call

import pytest
from pika import exceptions

import consumer
from rig.orders import new_order, order_json, ready_and_consumers, store_messages, wait_until_idle
from rig.processes import CONSUMER, WORKER, Program


def test_idle_consumer_goes_on(url, channel):
    """It has waited for more than half a minute. (It is the longest test: so it comes first.)"""
    with Program(WORKER, url) as process:
        process.wait_for("Waiting for orders")
        time.sleep(31)
        store_messages(channel, order_json("A"))
        process.wait_for("Processed 'A'")
    assert process.count("Connecting") == 1


def test_message_that_is_no_json_object_is_no_order():
    """The longest two are too much for Python."""
    for body in [b"hello", b"", b"\xff", b"[]", b"null", b'"A"', b"[" * 200_000, b"9" * 5_000]:
        with pytest.raises(consumer.InvalidOrder, match="^(unreadable JSON: .|not a JSON object)"):
            consumer.parse_order(body)


def test_order_has_four_fields():
    """It is returned whole, here without its byte order mark, even if its types are odd."""
    order = new_order("", customer={"name": "Ж"}, amount=-5, status=0, items=[12.5, None])
    assert repr(consumer.parse_order(b"\xef\xbb\xbf" + json.dumps(order).encode())) == repr(order)
    for field in ["order_id", "customer", "amount", "status"]:
        without = {name: order[name] for name in order if name != field}
        for no_order in [without, {**order, field: None}]:
            with pytest.raises(consumer.InvalidOrder, match=f"^{field} is missing or null$"):
                consumer.parse_order(json.dumps(no_order).encode())


def test_each_failure_is_logged_and_tried_again(monkeypatch, caplog):
    """Those of RabbitMQ and the network in a line, others with a traceback."""
    in_a_line = [exceptions.StreamLostError(), exceptions.ChannelClosed(406, "why"), OSError("why")]
    ends = [None, *in_a_line, TypeError("why"), SystemExit()]  # None: it has been cancelled
    monkeypatch.setattr(consumer, "consume_orders", Mock(side_effect=ends))
    monkeypatch.setattr("time.sleep", sleep := Mock(side_effect=[None] * 5))
    monkeypatch.setattr("signal.signal", lambda number, reaction: None)
    with pytest.raises(SystemExit):
        consumer.main()
    logged = [(each.levelname, each.message, bool(each.exc_info)) for each in caplog.records]
    expected = [("WARNING", f"Trying again: {error!r}", False) for error in in_a_line]
    assert logged == [*expected, ("ERROR", "Trying again", True)]
    assert sleep.mock_calls == [call(3)] * 5
    assert {each.name for each in caplog.records} == {"consumer"}, "another logger"


def test_deleted_queue_is_logged_and_declared_again(url, channel):
    logged = "ERROR .*was the queue deleted.*"
    with Program(CONSUMER, url, allowed=logged) as process:
        process.wait_for("Waiting for orders")
        channel.queue_delete("orders")
        process.wait_for("Waiting for orders", times=2)
    assert process.count(logged) == 1


def test_work_takes_two_seconds(channel, monkeypatch):
    monkeypatch.setattr("time.sleep", sleep := Mock())
    store_messages(channel, order_json("A"))
    consumer.handle_message(channel, *channel.basic_get("orders"))
    sleep.assert_called_once_with(2)


def test_free_consumer_gets_the_next_order(url, channel):
    """A consumer that works holds no second order, as prefetch_count is 1."""
    with Program(WORKER, url) as busy:
        store_messages(channel, order_json("A", waits=True))
        busy.wait_for("Works on 'A'")
        store_messages(channel, *map(order_json, "BCD"))
        with Program(WORKER, url) as free:
            free.wait_for("Processed 'D'")
        assert free.order_ids("Processed") == ["B", "C", "D"]


def test_order_of_a_consumer_that_dies_is_redelivered(url, channel):
    store_messages(channel, order_json("A", waits=True), order_json("B"))
    with Program(WORKER, url) as victim:
        victim.wait_for("Works on 'A'")
    wait_until_idle(channel, 2)
    with Program(WORKER, url) as another:
        another.process.stdin.close()  # ends the work
        another.wait_for("Processed 'B'")
    assert another.count("^INFO Received 'A', redelivered: True$") == 1
    assert another.order_ids("Processed") == ["A", "B"]


def test_failed_order_goes_back_after_a_pause(channel, monkeypatch, caplog):
    """By basic_reject: RabbitMQ 4.3 does not count what comes back by basic_nack."""
    results = [ValueError("A"), OSError(), exceptions.AMQPError(), None]
    pauses = []

    def sleep(connection, seconds):  # in which pika can send heartbeats
        pauses.append((seconds, ready_and_consumers(channel)))

    monkeypatch.setattr(consumer, "process_order", Mock(side_effect=results))
    monkeypatch.setattr("pika.BlockingConnection.sleep", sleep)
    monkeypatch.delattr("pika.adapters.blocking_connection.BlockingChannel.basic_nack")
    body = order_json("Заказ\n1")  # the log has a line break as two characters
    store_messages(channel, body)
    for ready in [1, 1, 1, 0]:
        consumer.handle_message(channel, *channel.basic_get("orders"))
        wait_until_idle(channel, ready)
    assert pauses == [(5, (0, 0))] * 3, "the order went back before the pause"
    first, last = r"Received 'Заказ\n1', redelivered: False", r"Processed 'Заказ\n1'"
    failures = [f"Failed: {body.decode()!r}", r"Received 'Заказ\n1', redelivered: True"] * 3
    assert caplog.messages == [first, *failures, last]
    assert [each.exc_info[1] for each in caplog.records if each.exc_info] == results[:3]


def test_rejected_messages_leave_the_queue_and_are_whole_in_the_log(url, channel):
    """As text: Cyrillic can be read, and each byte that is not UTF-8 as \\xNN."""
    invalid = order_json("A", amount=None, note="Ж" * 10_000)
    refused = order_json("A", refused="unknown customer")
    store_messages(channel, b"\x00\xff\n", invalid, refused, order_json("B"))
    with Program(WORKER, url, allowed="ERROR Rejecting.*") as process:
        process.wait_for("Processed 'B'")
    texts = re.findall(r"ERROR Rejecting \(InvalidOrder\(.+?\)\): (.*)\n", process.log)
    assert texts == [r"'\x00\\xff\n'", repr(invalid.decode()), repr(refused.decode())]
    assert process.count(r"InvalidOrder\('unknown customer'\)") == 1
    wait_until_idle(channel, 0)
