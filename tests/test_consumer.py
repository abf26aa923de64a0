"""consumer.py as a process, as a user runs it, against a real broker."""

import json
import time
from functools import partial
from signal import SIGINT, SIGKILL, SIGTERM

import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

from rig.changes import (
    Odd,
    pause,
    three_tries,
    work_empties_the_order,
    work_fails,
    work_is_nothing,
    work_takes,
    work_waits,
)
from rig.network import BASIC_ACK, BASIC_QOS, Network
from rig.node import LIMIT, SPEED, Node, wait_until
from rig.orders import (
    consumer_count,
    drain,
    ids,
    messages,
    order_json,
    put,
    put_orders,
    ready_count,
)
from rig.scripts import run_consumer, run_producer, start_consumer

either_signal = pytest.mark.parametrize("number", [SIGINT, SIGTERM], ids=["SIGINT", "SIGTERM"])
no_pause = partial(pause, 0)

# The work on an order


def test_five_orders_take_two_seconds_each(node: Node, channel: Channel) -> None:
    run_producer(node)
    consumer = run_consumer(node, until="Processed 'ORD-005'")
    assert consumer.received == consumer.processed == [f"ORD-00{number}" for number in range(1, 6)]
    begins, ends = consumer.moments_of("Received"), consumer.moments_of("Processed")
    for begin, end in zip(begins, ends, strict=True):
        assert end - begin > 1.9
    assert ends[-1] - begins[0] < 10 + 2 / SPEED
    assert not drain(channel)


def test_log_tells_all_that_happens_to_an_order(node: Node, channel: Channel) -> None:
    put_orders(channel, "ЗАКАЗ-Ж")
    assert run_consumer(node, until="Processed").lines == [
        f"INFO Waiting for orders from 127.0.0.1:{node.port}",
        f"INFO Received '{order_json('ЗАКАЗ-Ж').decode()}'",
        "INFO Processed 'ЗАКАЗ-Ж'",
        "Stopping after the current order (a second Ctrl-C kills it)",
        "INFO Stopped",
    ]


def test_free_consumer_gets_the_next_order(node: Node, channel: Channel) -> None:
    """While another one works: prefetch_count=1 leaves nothing else with that."""
    with start_consumer(node, work_waits) as busy:
        put_orders(channel, "A")
        busy.wait_for("begin A")
        put_orders(channel, *"BCDE")
        free = run_consumer(node, work_takes, until="Processed 'E'")
        assert free.processed == ["B", "C", "D", "E"]
        busy.close_input()
        busy.wait_for("Processed 'A'")


def test_work_may_change_its_order(node: Node, channel: Channel) -> None:
    put_orders(channel, "A")
    run_consumer(node, work_empties_the_order, until="Processed 'A'")


def test_consumer_waits_no_longer_than_the_work_takes(node: Node, channel: Channel) -> None:
    put_orders(channel, *ids("A", 60))
    consumer = run_consumer(node, work_is_nothing, until="Processed 'A-00060'")
    first, *_, last = consumer.moments_of("Processed")
    assert last - first < 10 / SPEED


def test_no_core_is_busy_while_it_waits_or_works(node: Node, channel: Channel) -> None:
    with start_consumer(node, work_waits) as consumer:
        consumer.wait_for("Waiting for orders")
        time.sleep(4)
        put_orders(channel, "A")
        consumer.wait_for("begin A")
        time.sleep(4)
        used = consumer.process.cpu_times()
    assert used.user + used.system < 2, "the start costs some tenths of a second"


# It is killed or stopped


@pytest.mark.parametrize("second_signal", [False, True], ids=["SIGKILL", "second signal"])
def test_killed_consumer_gives_its_order_back(
    node: Node, channel: Channel, second_signal: bool
) -> None:
    put_orders(channel, "A")
    with start_consumer(node, work_waits) as consumer:
        consumer.wait_for("begin A")
        if second_signal:
            consumer.ask_to_stop(SIGTERM)
            assert not consumer.ended()
        consumer.signal(SIGTERM if second_signal else SIGKILL)
        assert consumer.wait() == -(SIGTERM if second_signal else SIGKILL)
    assert consumer.processed == []
    another = run_consumer(node, work_takes, until="Processed 'A'")
    assert another.received == another.redelivered == ["A"]


@either_signal
def test_signal_lets_it_complete_the_current_order(
    node: Node, channel: Channel, number: int
) -> None:
    """And it touches no other: the next ones are not redelivered."""
    put_orders(channel, "A", "B", "C")
    with start_consumer(node, work_waits) as consumer:
        consumer.wait_for("begin A")
        consumer.ask_to_stop(number)
        consumer.close_input()
        assert consumer.wait() == 0
    assert consumer.lines[-1] == "INFO Stopped"
    assert consumer.processed == ["A"]
    rest = list(messages(channel))
    assert [body for _, _, body in rest] == [order_json("B"), order_json("C")]
    assert not any(method.redelivered for method, _, _ in rest)


def test_idle_consumer_stops_soon(node: Node) -> None:
    with start_consumer(node) as consumer:
        consumer.wait_for("Waiting for orders")
        consumer.stop()
    said, stopped = consumer.moments[-2:]
    assert stopped - said < 10 / SPEED


def test_consumer_that_stops_while_it_connects_begins_no_order(
    node: Node, channel: Channel
) -> None:
    put_orders(channel, "A")
    with Network(node.port) as network:
        network.hold_up_at(BASIC_QOS)
        with start_consumer(network, work_takes) as consumer:
            assert network.held.wait(LIMIT)
            consumer.ask_to_stop()
            network.release()
            assert consumer.wait() == 0
    assert consumer.received == []
    wait_until(lambda: ready_count(channel) == 1, "the order is there")


def test_consumer_stops_though_invalid_messages_keep_coming(node: Node, channel: Channel) -> None:
    put(channel, *[b"x"] * 5_000)
    with start_consumer(node) as consumer:
        consumer.wait_for("Stored a copy", times=50)
        consumer.stop()
    assert ready_count(channel) > 100, "they were still coming"


def test_signals_at_full_speed_lose_and_repeat_nothing(node: Node, channel: Channel) -> None:
    """Without work, most of them come between an acknowledgement and the next delivery."""
    orders = ids("A", 4_000)
    put_orders(channel, *orders)
    done: list[str] = []
    for moment in (0.00, 0.01, 0.02, 0.03, 0.04):
        with start_consumer(node, work_is_nothing) as consumer:
            consumer.wait_for("Processed", times=20)
            time.sleep(moment)
            consumer.stop(SIGTERM)
        assert consumer.received == consumer.processed
        done += consumer.processed
        if len(done) > 3_000:
            break  # this test was held up, and the orders might run out
    rest = [json.loads(body)["order_id"] for _, _, body in messages(channel)]
    assert rest, "a signal came amid the stream"
    assert done + rest == orders


# Work that fails


def test_failed_work_is_tried_again_behind_the_other_orders(node: Node, channel: Channel) -> None:
    put_orders(channel, "FAILS", "B", "C")
    failing = partial(work_fails, on="FAILS", times=1)
    consumer = run_consumer(node, failing, until="Processed 'FAILS'")
    assert consumer.received == ["FAILS", "B", "C", "FAILS"]
    assert consumer.processed == ["B", "C", "FAILS"]
    assert consumer.count("WARNING Stored a copy in orders with {'tries': 1}") == 1
    assert not drain(channel)


def test_failure_is_logged_at_once_then_the_consumer_pauses_for_five_seconds(
    node: Node, channel: Channel
) -> None:
    """With heartbeats: RabbitMQ closes a connection that is silent for three, here 3 s."""
    put_orders(channel, "A")
    url = node.url(query="?heartbeat=1")
    consumer = run_consumer(url, partial(work_fails, on="A", times=2), until="Processed 'A'")
    assert consumer.texts("^ERROR (.*)") == ["'A' failed, try 1 of 60", "'A' failed, try 2 of 60"]
    assert consumer.count("^Traceback ") == 2
    assert consumer.count("in charge_the_card$") == 2, "where in the user's code"
    assert consumer.count("^RuntimeError: the card was declined$") == 2
    failed, again = consumer.moments_of("failed, try"), consumer.moments_of("Received")
    for number in (0, 1):
        assert 4.9 < again[number + 1] - failed[number] < 5 + 5 / SPEED
    assert consumer.count("Waiting for orders") == 1, "no connection was lost"


@pytest.mark.parametrize("error", [Odd(), SystemExit(0)], ids=["odd", "sys.exit(0)"])
def test_unusual_exceptions_are_failures_too(
    node: Node, channel: Channel, error: BaseException
) -> None:
    put_orders(channel, "A")
    failing = partial(work_fails, on="A", error=error)
    consumer = run_consumer(node, three_tries, failing, until="Stored a copy in orders.dead")
    assert consumer.count("ERROR 'A' failed, try . of 3") == 3
    assert drain(channel, "orders.dead") == {"A": 1}


def test_order_that_always_fails_ends_in_orders_dead_with_the_error(
    node: Node, channel: Channel
) -> None:
    put_orders(channel, "FAILS", "B")
    failing = partial(work_fails, on="FAILS")
    said = "WARNING Stored a copy in orders.dead .*the card was declined"
    consumer = run_consumer(node, no_pause, failing, until=said)
    assert consumer.received.count("FAILS") == 60
    assert consumer.processed == ["B"]
    ((_, properties, body),) = messages(channel, "orders.dead")
    assert body == order_json("FAILS")
    assert properties.headers == {"error": "RuntimeError('the card was declined')"}
    assert properties.delivery_mode == 2
    assert not drain(channel)


def test_order_put_back_from_orders_dead_gets_all_its_tries_again(
    node: Node, channel: Channel
) -> None:
    put_orders(channel, "A")
    for _ in range(2):
        failing = partial(work_fails, on="A")
        consumer = run_consumer(node, three_tries, failing, until="Stored a copy in orders.dead")
        assert consumer.count("'A' failed") == 3
        _, properties, body = channel.basic_get("orders.dead", auto_ack=True)
        channel.basic_publish("", "orders", body, properties)  # as a shovel would


def test_tries_are_counted_over_killed_consumers(node: Node, channel: Channel) -> None:
    """The count is in the message: a consumer killed in its pause takes nothing with it."""
    put(channel, order_json("A"), headers={"tries": 7})
    failing = partial(work_fails, on="A")
    with start_consumer(node, partial(pause, 600), failing) as victim:
        victim.wait_for("'A' failed, try 8 of 60")
        victim.kill()
    wait_until(lambda: consumer_count(channel) == 0, "RabbitMQ to see it dead")
    assert ready_count(channel) == 1, "the order is back, without a copy"
    consumer = run_consumer(node, no_pause, failing, until="'A' failed, try 9 of 60")
    assert consumer.texts("failed, try (.*) of")[0] == "8"


def test_copy_is_stored_before_the_original_is_acknowledged(node: Node, channel: Channel) -> None:
    """A connection that is cut between the two leaves the order there twice, not nowhere."""
    put_orders(channel, "A")
    failing = partial(work_fails, on="A", times=1)
    with Network(node.port) as network:
        network.cut_at = BASIC_ACK
        with start_consumer(network, no_pause, failing) as consumer:
            consumer.wait_for("Processed 'A'", times=2)
            consumer.stop()
    assert network.cuts == 1
    assert consumer.received == ["A", "A", "A"]
    assert consumer.redelivered == ["A"]
    assert not drain(channel)


def test_order_stays_if_its_copy_is_refused(
    node: Node, channel: Channel, full_at_200: None
) -> None:
    put_orders(channel, "FAILS")
    with start_consumer(node, no_pause, partial(work_waits, fails=True)) as consumer:
        consumer.wait_for("begin FAILS")
        put_orders(channel, *ids("A", 200))
        consumer.close_input()
        consumer.wait_for("ERROR RabbitMQ at .*NackError")
    assert consumer.count("Stored a copy") == 0
    wait_until(lambda: consumer_count(channel) == 0, "RabbitMQ to see it dead")
    assert drain(channel)["FAILS"] == 1


@pytest.mark.parametrize("in_pause", [False, True], ids=["before it fails", "in the pause"])
def test_order_that_fails_while_the_consumer_stops_is_kept(
    node: Node, channel: Channel, in_pause: bool
) -> None:
    """With its tries, and the consumer touches no other order."""
    put_orders(channel, "FAILS", "B")
    failing = partial(work_waits, fails=True)
    with start_consumer(node, partial(pause, 2), failing) as consumer:
        consumer.wait_for("begin FAILS")
        if in_pause:
            consumer.close_input()
            consumer.wait_for("'FAILS' failed, try 1 of 60")
        consumer.ask_to_stop()
        consumer.close_input()
        assert consumer.wait() == 0
    (other, _, first), (_, properties, last) = messages(channel)
    assert (first, last) == (order_json("B"), order_json("FAILS"))
    assert (properties.headers, properties.delivery_mode) == ({"tries": 1}, 2)
    assert not other.redelivered


# Messages that are no orders

INVALID = {
    b"hello": "Expecting value: line 1 column 1 (char 0)",
    b"[]": "not a JSON object",
    order_json("A", amount=-5): "amount must be a number above 0 and below 1e15",
    b"[" * 200_000: "",  # Python's versions say it in different words
    bytes(1_000_000): "Expecting value: line 1 column 1 (char 0)",
    b"": "Expecting value: line 1 column 1 (char 0)",
    bytes(range(128, 256)): "'utf-8' codec can't decode byte 0x80 in position 0",
    b'{"order_id": ' + b"9" * 100_000 + b"}": "Exceeds the limit",
}


def test_invalid_messages_go_to_orders_dead_byte_for_byte(node: Node, channel: Channel) -> None:
    put(channel, *INVALID, order_json("B"), headers={"foreign": "x"})
    consumer = run_consumer(node, work_takes, until="Processed 'B'")
    dead = {body: properties for _, properties, body in messages(channel, "orders.dead")}
    assert list(dead) == list(INVALID)
    for body, reason in INVALID.items():
        assert list(dead[body].headers) == ["error"]
        assert dead[body].headers["error"].startswith(reason)
        assert dead[body].delivery_mode == 2
    assert consumer.lines[1:3] == [
        "INFO Received 'hello'",
        "WARNING Stored a copy in orders.dead with "
        "{'error': 'Expecting value: line 1 column 1 (char 0)'}",
    ]
    assert consumer.processed == ["B"]


@pytest.mark.parametrize("value", ["3", [3], {"n": 3}, None], ids=str)
def test_foreign_header_of_the_name_tries_holds_up_nobody(
    node: Node, channel: Channel, value: object
) -> None:
    put(channel, order_json("A"), headers={"tries": value})
    put_orders(channel, "B")
    run_consumer(node, work_takes, until="Processed 'B'")
    assert drain(channel, "orders.dead") == {"A": 1}


def test_log_stays_small_though_messages_are_large(node: Node, channel: Channel) -> None:
    large = "x" * 1_000_000
    put(channel, order_json("A", customer=large), large.encode(), order_json("B"))
    consumer = run_consumer(node, work_is_nothing, until="Processed 'B'")
    assert consumer.count("INFO Received") == 3
    assert max(map(len, consumer.lines)) < 600


# Queues that are deleted


def test_copy_for_a_deleted_queue_is_stored_when_the_queue_is_back(
    node: Node, channel: Channel
) -> None:
    with start_consumer(node) as consumer:
        consumer.wait_for("Waiting for orders")
        channel.queue_delete("orders.dead")
        channel.basic_publish("", "orders", b"hello")
        consumer.wait_for("ERROR .*UnroutableError")
        consumer.wait_for("Stored a copy in orders.dead")
        consumer.stop()
    assert ready_count(channel, "orders.dead") == 1


def test_deleted_queue_is_told_and_declared_again(node: Node, channel: Channel) -> None:
    with start_consumer(node) as consumer:
        consumer.wait_for("Waiting for orders")
        wait_until(lambda: consumer_count(channel) == 1, "the consumer to subscribe")
        channel.queue_delete("orders")
        consumer.wait_for("ERROR RabbitMQ at .*cancelled this consumer")
        consumer.wait_for("Waiting for orders", times=2)
        consumer.stop()
