"""consumer.py as a process, as a user runs it, against a real broker."""

import json
import random
import time
from functools import partial
from signal import SIGINT, SIGKILL, SIGTERM

import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

from rig.changes import (
    Falsy,
    method_is_missing,
    no_pause,
    work_crashes,
    work_empties_the_order,
    work_fails,
    work_is_nothing,
    work_takes,
    work_waits,
)
from rig.node import SPEED, Node, wait_until
from rig.orders import counts, drain, ids, messages, order_json, put, put_orders, ready_count
from rig.scripts import Program, nowhere, start_consumer, start_producer

# The work on an order


def test_five_orders_take_two_seconds_each(node: Node, channel: Channel) -> None:
    with start_consumer(node) as consumer, start_producer(node):
        consumer.wait_for("Processed 'ORD-005'")
        consumer.stop()
    begins = dict(consumer.seen("Received '(.*?)'"))
    ends = dict(consumer.seen("Processed '(.*?)'"))
    assert list(begins) == list(ends) == [f"ORD-00{number}" for number in range(1, 6)]
    for order_id, begin in begins.items():
        assert ends[order_id] - begin > 1.9
    assert 9.9 < ends["ORD-005"] - begins["ORD-001"] < 10 + 2 / SPEED
    assert not drain(channel)


def test_log_tells_all_that_happens_to_an_order(node: Node, channel: Channel) -> None:
    put_orders(channel, "ORD-001")
    with start_consumer(node) as consumer:
        consumer.wait_for("Processed")
        consumer.stop()
    fields = "'customer': 'Иван Иванов', 'amount': 1249.5, 'status': 'pending'"
    assert [line[24:] for line in consumer.lines] == [
        "INFO Waiting for orders",
        f"INFO Received 'ORD-001': {{'order_id': 'ORD-001', {fields}}}",
        "INFO Processed 'ORD-001'",
        "INFO Stopped",
    ]


def test_work_gets_the_whole_order_and_may_change_it(node: Node, channel: Channel) -> None:
    put(channel, order_json("A", items=[1.5, {"n": 2}, None]))
    with start_consumer(node, work_empties_the_order) as consumer:
        consumer.wait_for("Processed 'A'")
    rest = "'amount': 1249.5, 'status': 'pending', 'items': [1.5, {'n': 2}, None]"
    assert f"{{'order_id': 'A', 'customer': 'Иван Иванов', {rest}}}" in consumer.lines


def test_no_core_is_busy_while_it_waits_or_works(node: Node, channel: Channel) -> None:
    with start_consumer(node, work_waits) as consumer:
        consumer.wait_for("Waiting for orders")
        assert cpu_seconds_used_in_four(consumer) < 0.5
        put_orders(channel, "A")
        consumer.wait_for("begin A")
        assert cpu_seconds_used_in_four(consumer) < 0.5


def cpu_seconds_used_in_four(program: Program) -> float:
    """Return how much of a core a program takes in the next four seconds."""
    before = program.process.cpu_times()
    time.sleep(4)
    after = program.process.cpu_times()
    return float(after.user + after.system - before.user - before.system)


# Ctrl-C and SIGTERM


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_signal_lets_it_complete_the_order_in_hand(
    node: Node, channel: Channel, number: int
) -> None:
    """And it touches no other: the next ones are not redelivered, and no failure is counted."""
    put_orders(channel, "A", "B", "C")
    with start_consumer(node, work_waits) as consumer:
        consumer.wait_for("begin A")
        consumer.ask_to_stop(number)
        consumer.close_input()
        assert consumer.wait() == 0
    assert consumer.lines[-1].endswith("INFO Stopped")
    assert consumer.processed == ["A"]
    for (method, properties, body), order_id in zip(messages(channel), "BC", strict=True):
        assert json.loads(body)["order_id"] == order_id
        assert not method.redelivered
        assert not (properties.headers or {}).get("x-delivery-count")


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_second_signal_kills_it_and_gives_the_order_back(
    node: Node, channel: Channel, number: int
) -> None:
    put_orders(channel, "A")
    with start_consumer(node, work_waits) as consumer:
        consumer.wait_for("begin A")
        consumer.ask_to_stop(number)
        assert not consumer.ended()
        consumer.signal(number)
        assert consumer.wait() == -number
    wait_until(lambda: ready_count(channel) == 1, "the order is back")
    assert consumer.processed == []


def test_idle_consumer_stops_within_two_seconds(node: Node) -> None:
    with start_consumer(node) as consumer:
        consumer.wait_for("Waiting for orders")
        assert seconds_to_stop(consumer) < 2 / SPEED


def seconds_to_stop(consumer: Program) -> float:
    """Stop a consumer; return the time from the signal to its last line."""
    sent = time.time()
    consumer.stop()
    return consumer.moments[-1] - sent


def test_consumer_stops_though_invalid_messages_keep_coming(node: Node, channel: Channel) -> None:
    put(channel, *[b"x"] * 50_000, confirm=False)
    with start_consumer(node) as consumer:
        consumer.wait_for("Rejected", times=50)
        assert seconds_to_stop(consumer) < 2 / SPEED
    assert ready_count(channel) > 1_000, "they were still coming"
    channel.queue_delete("orders")  # or RabbitMQ dead-letters on, beside the next tests
    channel.queue_delete("orders.dead")


def test_signals_at_full_speed_lose_and_repeat_nothing(node: Node, channel: Channel) -> None:
    """Without work, most of them come between an acknowledgement and the next delivery."""
    orders = ids("A", 2_000)
    put_orders(channel, *orders)
    done: list[str] = []
    for _ in range(6):
        with start_consumer(node, work_takes) as consumer:
            consumer.wait_for("Processed", times=20)
            time.sleep(random.uniform(0, 0.05))  # to hit different moments
            consumer.stop(SIGTERM)
        assert consumer.count("Received") == len(consumer.processed)
        done += consumer.processed
        if len(done) > 1_500:
            break  # this test was held up, and the orders might run out
    rest = [json.loads(body)["order_id"] for _, _, body in messages(channel)]
    assert rest, "a signal came amid the stream"
    assert done + rest == orders


def test_never_gives_up_but_stops_at_a_signal() -> None:
    with start_consumer(nowhere(), no_pause) as consumer:
        consumer.wait_for("ConnectionRefusedError", times=200)
        consumer.stop()


# Work that fails


def test_failed_work_is_tried_again_after_ten_seconds(node: Node, channel: Channel) -> None:
    """With heartbeats meanwhile: RabbitMQ closes a connection that is silent for two, here 6 s."""
    put_orders(channel, "FAILS", "B")
    url = node.url(query="?heartbeat=3")
    with start_consumer(url, work_fails) as consumer:
        consumer.wait_for("Processed 'B'")
        consumer.stop()
    tries = [moment for _, moment in consumer.seen("(Received 'FAILS')")]
    assert len(tries) == 2
    assert 10 <= tries[1] - tries[0] < 10 + 5 / SPEED
    assert consumer.count(r"Received 'FAILS' \(redelivered\)") == 1
    assert consumer.count("Waiting for orders") == 1, "no connection was lost"
    assert consumer.processed == ["FAILS", "B"], "the order behind it has waited"
    assert not drain(channel)


def test_failure_is_logged_at_once_with_its_traceback(node: Node, channel: Channel) -> None:
    put_orders(channel, "FAILS")
    with start_consumer(node, work_fails) as consumer:
        consumer.wait_for("RuntimeError: the card was declined")
        received = consumer.seen("(Received)")[0][1]
        assert consumer.seen("(RuntimeError)")[0][1] - received < 5 / SPEED, "not after the pause"
    assert consumer.count("ERROR The work failed") == 1
    assert consumer.count("^Traceback ") == 1
    assert consumer.count("in charge_the_card$") == 1, "where in the user's code"


@pytest.mark.parametrize("error", [Falsy(), SystemExit(0)], ids=repr)
def test_unusual_exceptions_are_failures_too(
    node: Node, channel: Channel, error: BaseException
) -> None:
    put_orders(channel, "FAILS")
    with start_consumer(node, no_pause, partial(work_fails, error=error)) as consumer:
        consumer.wait_for("Processed 'FAILS'")
        consumer.stop()
    assert consumer.count("The work failed") == 1


def test_order_whose_work_always_fails_is_dead_lettered_after_21_tries(
    node: Node, channel: Channel
) -> None:
    """RabbitMQ 4.3 does not count a nack, so the nack is taken away here, on any version."""
    put_orders(channel, "FAILS", "B")
    no_nack = partial(method_is_missing, name="basic_nack")
    with start_consumer(node, no_pause, no_nack, partial(work_fails, times=99)) as consumer:
        consumer.wait_for("Processed 'B'")
        consumer.stop()
    assert consumer.count("Received 'FAILS'") == 21
    assert consumer.count("Waiting for orders") == 1
    assert consumer.processed == ["B"]
    wait_until(lambda: ready_count(channel, "orders.dead") == 1, "a dead letter")
    ((_, properties, body),) = messages(channel, "orders.dead")
    assert body == order_json("FAILS")
    assert properties.headers["x-death"][0]["reason"] == "delivery_limit"


def test_stop_in_the_pause_gives_the_order_back(node: Node, channel: Channel) -> None:
    put_orders(channel, "FAILS", "B")
    with start_consumer(node, work_fails) as consumer:
        consumer.wait_for("RuntimeError: the card was declined")
        assert seconds_to_stop(consumer) < 4 / SPEED, "docker stop gives it ten"
    assert consumer.processed == []
    assert drain(channel) == {"FAILS": 1, "B": 1}


def test_order_that_fails_while_it_stops_counts_one_failure(node: Node, channel: Channel) -> None:
    put_orders(channel, "FAILS", "B")
    with start_consumer(node, partial(work_fails, gate=True)) as consumer:
        consumer.wait_for("begin FAILS")
        consumer.ask_to_stop()
        consumer.close_input()
        assert consumer.wait() == 0
    assert consumer.processed == []
    (failed, properties, body), (other, _, _) = messages(channel)
    assert body == order_json("FAILS")
    assert failed.redelivered
    assert properties.headers["x-delivery-count"] == 1
    assert not other.redelivered


def test_order_that_kills_its_consumer_is_dead_lettered_after_21_tries(
    node: Node, channel: Channel
) -> None:
    put_orders(channel, "CRASHES")
    marks: list[str | None] = []
    for _ in range(21):
        wait_until(lambda: ready_count(channel) == 1, "the order is back")
        with start_consumer(node, work_crashes) as consumer:
            assert consumer.wait() == -SIGKILL
        marks += consumer.texts(r"Received 'CRASHES'( \(redelivered\))?:")
    assert marks == [None] + [" (redelivered)"] * 20
    wait_until(lambda: ready_count(channel, "orders.dead") == 1, "a dead letter")


def test_nothing_is_called_processed_that_is_not_acknowledged(node: Node, channel: Channel) -> None:
    put_orders(channel, "A")
    no_ack = partial(method_is_missing, name="basic_ack")
    with start_consumer(node, work_takes, no_ack) as consumer:
        consumer.wait_for(r"Received 'A' \(redelivered\)")
    assert consumer.processed == []


# Messages that are no orders

INVALID = [b"hello", b"", b"not JSON", b"[]", order_json("A", amount=-5), order_json(" ")]
INVALID += [b'{"order_id": "A"}', b"[" * 200_000, bytes(1_000_000), bytes(range(256))]
INVALID += [order_json("A").decode().encode(code) for code in ("cp1251", "utf-16", "utf-8-sig")]
INVALID += [order_json("A") + order_json("B"), b"9" * 100_000]


def test_invalid_messages_are_dead_lettered_byte_for_byte(node: Node, channel: Channel) -> None:
    put(channel, *INVALID, order_json("B"), headers={"mine": "kept"}, content_type="text/x")
    with start_consumer(node, work_takes) as consumer:
        consumer.wait_for("Processed 'B'")
        wait_until(lambda: ready_count(channel, "orders.dead") == len(INVALID), "all dead")
        consumer.stop()
    dead = list(messages(channel, "orders.dead"))
    assert sorted(body for _, _, body in dead) == sorted(INVALID)
    for _, properties, _ in dead:
        assert properties.headers["mine"] == "kept"
        assert properties.headers["x-death"][0]["reason"] == "rejected"
        assert (properties.content_type, properties.delivery_mode) == ("text/x", 2)
    assert consumer.count("ERROR Rejected: .") == len(INVALID)
    reason = "Expecting value: line 1 column 1 (char 0)"  # of b"hello", as README shows it
    assert consumer.lines[1].endswith(f"ERROR Rejected: {reason}")


def test_log_stays_small_though_messages_are_large(node: Node, channel: Channel) -> None:
    large = "x" * 1_000_000
    put(channel, order_json(large, customer=large), large.encode(), order_json("B"))
    with start_consumer(node, work_is_nothing) as consumer:
        consumer.wait_for("Processed 'B'")
    assert (consumer.count("Received"), consumer.count("Rejected")) == (2, 1)
    assert max(map(len, consumer.lines)) < 600


# Queues that are deleted


def test_deleted_queue_is_declared_again_after_a_second(node: Node, channel: Channel) -> None:
    with start_consumer(node) as consumer:
        for times in (1, 2):
            consumer.wait_for("Waiting for orders", times)
            wait_until(lambda: counts(channel).consumer_count == 1, "the consumer to subscribe")
            channel.queue_delete("orders")
            consumer.wait_for("ERROR .*cancelled by RabbitMQ", times)
        consumer.wait_for("Waiting for orders", 3)
        consumer.stop()
    ends = [moment for _, moment in consumer.seen("(cancelled)")]
    begins = [moment for _, moment in consumer.seen("(Waiting)")][1:]
    for end, begin in zip(ends, begins, strict=True):
        assert begin - end > 0.99
