"""consumer.py as a process, as a user runs it, against a real broker."""

import json
import random
import re
import sys
import time
import unicodedata
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from signal import SIGINT, SIGKILL, SIGTERM
from typing import Any

import pika
import psutil
import pytest

from conftest import running
from rig.broker import Broker, wait_until
from rig.network import Network
from rig.orders import consumers, line, messages, names, put, ready
from rig.scripts import CONSUMER, Script, changed, consumer, processed, producer


def untouched(channel: Any) -> list[str]:
    """Take the orders that no consumer has had, and return their names."""
    found = []
    for method, properties, body in messages(channel):
        assert not method.redelivered
        assert not (properties.headers or {}).get("x-delivery-count")
        found.append(json.loads(body)["order_id"])
    return found


def test_five_orders_take_two_seconds_each(broker: Broker, channel: Any) -> None:
    with Script(CONSUMER, url=broker.url()) as script, producer(broker) as sender:
        assert sender.wait() == 0
        last = script.wait_for(r"Processed ORD-005 \((\d) orders? in (\d+\.\d\d) s\)$")
        script.stop()
    texts = [re.sub(r"^\S+ \S+ | \(.*", "", text) for text in script.lines]
    assert texts[0].startswith("Waiting for orders. Ctrl-C")
    assert texts[1] == "Received ORD-001: 'Иван Иванов', 5000"
    assert [text.partition(":")[0] for text in texts[1:-1]] == [
        f"{what} ORD-00{n}" for n in range(1, 6) for what in ("Received", "Processed")
    ]
    # Less than five if RabbitMQ kept it waiting, as an empty queue does.
    assert 2 * int(last[1]) <= float(last[2]) < 15
    begin, end = (datetime.fromisoformat(script.lines[n][:19]) for n in (1, 10))
    assert 9 <= (end - begin).seconds <= 16, "the clock says so, too"
    assert ready(channel) == 0


def test_counts_anew_when_the_queue_was_empty(broker: Broker, channel: Any) -> None:
    put(channel, *map(line, "ABCDEFGH"))
    with consumer(broker, 0.2) as script:
        script.wait_for("Processed H")
        before = psutil.Process(script.process.pid).cpu_times().user
        time.sleep(5)  # the idle time: much longer than the work
        after = psutil.Process(script.process.pid).cpu_times().user
        put(channel, line("I"))
        script.wait_for("Processed I")
    totals = re.findall(r"\((\d) orders? in (\d+\.\d\d) s\)", script.out)
    counts = [int(count) for count, _ in totals]
    assert counts[0] == counts[-1] == 1 and max(counts) > 1
    assert float(totals[-1][1]) < 5
    assert after - before < 0.5, "it keeps a core busy while it waits"


def test_takes_one_order_at_a_time(broker: Broker, channel: Any) -> None:
    put(channel, line("A"), line("B"), line("C"))
    with consumer(broker, 600) as script:
        script.wait_for("Received A")
        time.sleep(1)  # in which more could come
        assert ready(channel) == 2


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "soon"])
def test_wrong_processing_time_is_refused(seconds: str) -> None:
    with Script(CONSUMER, "--processing-time", seconds) as script:
        assert script.wait() == 2
    assert "consumer.py: error:" in script.lines[-1]


# Ctrl-C and SIGTERM


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_signal_finishes_the_order_in_hand_and_touches_no_other(
    broker: Broker, channel: Any, number: int
) -> None:
    put(channel, *map(line, "ABC"))
    with consumer(broker, 5) as script:
        script.wait_for("Received A")
        script.stop(number)
    assert processed(script) == ["A"]
    assert untouched(channel) == ["B", "C"]


def test_signal_while_bad_messages_come_touches_no_other(broker: Broker, channel: Any) -> None:
    put(channel, *[line("BAD", amount=-1)] * 300)
    with consumer(broker) as script:
        script.wait_for("Rejected")
        script.stop()
    assert len(script.seen("(Rejected)")) + len(untouched(channel)) == 300


def test_signal_at_full_speed_touches_no_other(broker: Broker, channel: Any) -> None:
    """Without work, it mostly comes between acknowledgement and next delivery."""
    seed = random.randrange(1_000_000)
    print("seed", seed)
    draw, orders = random.Random(seed), names("A", 1_000)
    put(channel, *map(line, orders))
    done: list[str] = []
    for _ in range(6):
        if not ready(channel):
            break  # this test was held up
        with consumer(broker) as script:
            script.wait_for("Processed A-")
            time.sleep(draw.uniform(0, 0.05))  # to hit different moments
            script.stop(SIGTERM)
        assert len(script.seen("(Received)")) == len(processed(script))
        done += processed(script)
    assert [*done, *untouched(channel)] == orders


def test_second_signal_ends_it_and_gives_the_order_back(broker: Broker, channel: Any) -> None:
    put(channel, line("A"))
    with consumer(broker, 600) as script:
        script.wait_for("Received A")
        script.signal()
        time.sleep(0.5)
        assert not script.ended()
        while not script.ended():  # two signals at the same moment are one
            script.signal()
            time.sleep(0.1)
        assert script.wait() == -SIGINT
    wait_until(lambda: ready(channel) == 1, "the order is back")
    ((method, _, _),) = messages(channel)
    assert method.redelivered


# Dead letters

NO_ORDERS = [b"", b"not JSON", b"[]", line("A", amount=-5), line("A", amount=True)]
NO_ORDERS += [line("A", order_id=" "), b'{"order_id": "A"}', b"[" * 200_000]
NO_ORDERS += [bytes(1_000_000), bytes(range(256)), "{'Ж'}".encode("cp1251")]
NO_ORDERS += [line("A").replace(b"1249.5", b"1e99999999999999999999")]


def test_what_is_no_order_is_dead_lettered_byte_for_byte(broker: Broker, channel: Any) -> None:
    put(channel, *NO_ORDERS, line("B"), headers={"mine": "kept"}, content_type="text/x")
    with consumer(broker) as script:
        script.wait_for(r"Processed B \(1 order in ")
        wait_until(lambda: ready(channel, "orders.dead") == len(NO_ORDERS), "all dead")
        script.stop()
    dead = list(messages(channel, "orders.dead"))
    assert sorted(body for _, _, body in dead) == sorted(NO_ORDERS)
    for _, properties, _ in dead:
        assert properties.headers["mine"] == "kept"
        assert (properties.content_type, properties.delivery_mode) == ("text/x", 2)
    assert len(script.lines) == len(NO_ORDERS) + 4, "one line each"
    assert len(script.seen("(Rejected) to orders.dead: .")) == len(NO_ORDERS)


def test_failed_work_is_dead_lettered_with_its_traceback(broker: Broker, channel: Any) -> None:
    failing = ["RAISES", "FALSY", "EXITS"]
    put(channel, *map(line, [*failing, "CHANGES"]))
    with changed("failing_consumer", url=broker.url()) as script:
        script.wait_for("Processed CHANGES")
        wait_until(lambda: ready(channel, "orders.dead") == 3, "they are dead")
        script.stop()
    bodies = [body for _, _, body in messages(channel, "orders.dead")]
    assert sorted(bodies) == sorted(map(line, failing))
    assert [name for name, _ in script.seen("orders.dead: (.*)")] == failing
    assert script.out.count("Traceback (most recent call last)") == 3
    assert "RuntimeError: the card was declined" in script.out
    assert processed(script) == ["CHANGES"]


def test_order_that_crashes_twenty_consumers_is_dead_lettered(broker: Broker, channel: Any) -> None:
    put(channel, line("CRASHES"), line("A"))
    for _ in range(20):
        wait_until(lambda: ready(channel) == 2, "it is back")
        with changed("crashing_consumer", url=broker.url()) as script:
            assert script.wait() == -SIGKILL
        assert "Received CRASHES" in script.out
    wait_until(lambda: ready(channel, "orders.dead") == 1, "it is dead")
    ((_, properties, body),) = messages(channel, "orders.dead")
    assert body == line("CRASHES")
    assert properties.headers["x-death"][0]["reason"] == "delivery_limit"


def test_dead_letters_may_be_looked_at_for_ever(broker: Broker, channel: Any) -> None:
    put(channel)
    channel.basic_publish("", "orders.dead", line("A"))
    for _ in range(30):
        look = partial(channel.basic_get, "orders.dead")
        method = wait_until(lambda: look()[0], "it is there")  # noqa: B023
        channel.basic_reject(method.delivery_tag, requeue=True)
    wait_until(lambda: ready(channel, "orders.dead") == 1, "it is still there")


@pytest.fixture(scope="module")
def impatient_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A node that takes an order back after two seconds, and looks every second."""
    settings = "-rabbit consumer_timeout 2000"
    settings += " -rabbit channel_tick_interval 1000 -rabbit quorum_tick_interval 1000"
    settings += " -rabbit dead_letter_worker_publisher_confirm_timeout 1000"
    arguments = {"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": settings}
    with running(Broker(tmp_path_factory.mktemp("impatient"), **arguments)) as node:
        yield node


def test_rejected_message_waits_for_its_dead_letter_queue(impatient_node: Broker) -> None:
    with impatient_node.connect() as connection:
        channel = connection.channel()
        channel.queue_delete("orders")
        put(channel, b"no order")
        channel.queue_delete("orders.dead")
        change = "consumer_without_dead_letter_queue"
        with changed(change, url=impatient_node.url()) as script:
            script.wait_for("Rejected")
            time.sleep(1)  # in which it could get lost
            script.stop()
        put(channel)
        wait_until(lambda: ready(channel, "orders.dead") == 1, "it is dead")


# The order in hand, and the connection


def test_work_that_blocks_is_done_once(broker: Broker, channel: Any) -> None:
    """RabbitMQ closes a connection that is silent for two heartbeats, here 6 s."""
    put(channel, line("A"))
    with consumer(broker, 10, url=broker.url(query="?heartbeat=3")) as script:
        script.wait_for("Processed A")
        script.stop()
    assert len(script.lines) == 4, "no connection was lost"


def test_work_whose_connection_is_lost_ends_before_the_next_begins(broker: Broker, channel: Any) -> None:
    """It cannot be interrupted. The order comes again, and what went wrong is told."""
    put(channel, line("FAILS"), line("B"))
    with Network(broker.port) as network:
        with changed("telling_consumer", url=network.url()) as script:
            script.wait_for("begin FAILS")
            network.cut()
            script.wait_for("Processed B")
            script.stop()
    work = [text for text in script.lines if text.startswith(("begin", "end"))]
    assert work == ["begin FAILS", "end FAILS"] * 2 + ["begin B", "end B"]
    assert script.out.count("RuntimeError: the card was declined") == 2
    assert "Received FAILS (redelivered)" in script.out
    assert len(script.seen("(trying again every second)")) == 1


def test_stopped_is_said_when_the_work_has_ended(broker: Broker, channel: Any) -> None:
    put(channel, line("A"))
    with Network(broker.port) as network:
        with changed("telling_consumer", url=network.url()) as script:
            script.wait_for("begin A")
            script.signal()
            network.cut()
            assert script.wait() == 0
    assert script.out.index("end A") < script.out.index("Stopped")
    assert "Processed" not in script.out
    wait_until(lambda: ready(channel) == 1, "the order is back")


def test_order_taken_back_after_consumer_timeout_is_not_called_processed(impatient_node: Broker) -> None:
    """RabbitMQ 4.0 closes the channel for it, and 4.3 cancels the consumer."""
    with impatient_node.connect() as connection:
        connection.channel().queue_delete("orders")
        put(connection.channel(), line("A"))
        with consumer(impatient_node, 8) as script:
            # The second text is RabbitMQ's, which pika passes on since 1.5.
            script.wait_for("has taken A back|acknowledgement.* timed out")
            script.wait_for(r"Received A \(redelivered\)")
    assert "Processed" not in script.out


def test_order_of_a_queue_deleted_in_mid_work_is_not_called_processed(broker: Broker, channel: Any) -> None:
    put(channel, line("A"))
    with consumer(broker, 5) as script:
        script.wait_for("Received A")
        channel.queue_delete("orders")
        script.wait_for("RabbitMQ has taken A back")
        wait_until(lambda: script.out.count("Waiting") == 2, "it is back")
        script.stop()
    assert "Processed" not in script.out


def test_deleted_queue_is_declared_again(broker: Broker, channel: Any) -> None:
    with consumer(broker) as script:
        for times in (1, 2):
            wait_until(lambda: consumers(channel) == 1, "the consumer is there")
            channel.queue_delete("orders")
            told = "cancelled the consumer; trying again"
            wait_until(lambda: script.out.count(told) == times, "an outage is told")  # noqa: B023
        wait_until(lambda: consumers(channel) == 1, "it is back")
        put(channel, line("A"))
        script.wait_for("Processed A")
        script.stop()


@pytest.mark.parametrize("user", ["one-connection", "two-channels"])
def test_limit_is_waited_for(broker: Broker, user: str) -> None:
    url = broker.url(f"{user}:s3cret")
    with pika.BlockingConnection(pika.URLParameters(url)) as other:
        other.channel()
        with consumer(broker, url=url) as script:
            script.wait_for("limit.*trying again")
            other.close()
            script.wait_for("Waiting for orders")
            script.stop()


# Its lines


@pytest.mark.parametrize("end", ["2>&-", "2>/dev/full", "2> >(head -n 1)"])
def test_log_that_nobody_gets_is_no_fault_of_the_orders(broker: Broker, channel: Any, end: str) -> None:
    put(channel, *map(line, names("A", 50)))
    command = f'exec "{sys.executable}" "{CONSUMER}" --processing-time 0 {end}'
    with Script("bash", "-c", command, url=broker.url(), python="") as script:
        wait_until(lambda: ready(channel) == 0, "an empty queue")
        script.signal()
        assert script.wait() in (0, 120), script  # 120: Python could not flush it
    assert ready(channel) == ready(channel, "orders.dead") == 0


CRAFTED = [
    "\x1b[2J\x1b[H",  # clears the screen
    "\x9b31m",  # red, as one character
    "A\n2026-11-25 20:30:15,297 Processed FORGED",
    "A\r2026-11-25 20:30:15,297 Processed FORGED",
    "A\x85\u2028\u2029Z",
    "\u202eDEGROF\u202c",  # right to left
    "A\x00\x08\x08\ud800Z",
    "x" * 100_000,
]


def test_crafted_order_cannot_forge_a_line_nor_steer_the_terminal(broker: Broker, channel: Any) -> None:
    orders = [
        json.dumps({**json.loads(line("A")), field: text}).encode()
        for text in CRAFTED
        for field in ("order_id", "customer", "status")
    ]
    with producer(broker, "-", stdin=b"\n".join(orders)) as sender:
        assert sender.wait() == 0, sender
    put(channel, *[text.encode("utf-8", "replace") for text in CRAFTED], line("LAST"))
    with consumer(broker) as script:
        script.wait_for("Processed LAST")
        script.stop()
    assert len(script.lines) == 2 * len(orders) + len(CRAFTED) + 4
    assert len(sender.lines) == 20 + 1
    for text in script.lines + sender.lines[:-1]:
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]", text), ascii(text)
        assert len(text) < 600
        assert not [c for c in text if unicodedata.category(c)[0] in "CZ" and c != " "]
    assert not script.seen("^.{24}Processed (FORGED)")
