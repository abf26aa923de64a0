"""consumer.py as a process, as a user runs it, against a real broker."""

import json
import random
import re
import time
import unicodedata
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM
from typing import Any

import psutil
import pytest

from rig.broker import Broker, running, wait_until
from rig.network import Network
from rig.orders import drain, line, messages, names, put, ready
from rig.scripts import CONSUMER, ROOT, Script, consumer, nowhere, producer, start, telling_consumer


def untouched(channel: Any) -> list[str]:
    """Take the orders that no consumer has had, and return their names."""
    found = []
    for method, properties, body in messages(channel):
        assert not method.redelivered
        assert not (properties.headers or {}).get("x-delivery-count")
        found.append(json.loads(body)["order_id"])
    return found


# Time


def test_five_orders_take_two_seconds_each(broker: Broker, channel: Any) -> None:
    with start(CONSUMER, broker) as script, producer(broker):
        script.wait_for("Processed 'ORD-005'")
        idle = time.time()
        script.stop()
    assert script.finished - idle < 15
    said = [f"{what} 'ORD-00{n}'" for n in range(1, 6) for what in ("Received", "Processed")]
    texts = [text[24:] for text in script.lines]
    assert [text.partition(":")[0] for text in texts] == ["Waiting for orders", *said, "Stopped"]
    assert texts[1] == "Received 'ORD-001': 'Иван Иванов'"
    begins, ends = (dict(script.seen(f"{what} '(.*?)'")) for what in ("Received", "Processed"))
    assert all(ends[order] - begins[order] > 1.9 for order in begins)
    assert 9.9 < ends["ORD-005"] - begins["ORD-001"] < 14.9
    assert ready(channel) == 0


def test_two_consumers_need_three_rounds(broker: Broker, channel: Any) -> None:
    with consumer(broker, 3) as one, consumer(broker, 3) as other:
        for script in (one, other):
            script.wait_for("Waiting for orders")
        put(channel, *map(line, "ABCDE"))
        wait_until(lambda: len(one.processed + other.processed) == 5, "five orders")
    seen = one.seen("(Received|Processed)") + other.seen("(Received|Processed)")
    times = sorted(at for _, at in seen)
    assert 8.9 < times[-1] - times[0] < 14.9, "one alone needs 15 s"
    assert {len(one.processed), len(other.processed)} == {2, 3}


def test_next_order_goes_to_the_consumer_that_is_free(broker: Broker, channel: Any) -> None:
    with consumer(broker, 600) as slow:
        put(channel, *map(line, "ABCDE"))
        slow.wait_for("Received 'A'")
        time.sleep(1)  # in which more could come
        assert ready(channel) == 4
        with consumer(broker, 0.2) as fast:
            fast.wait_for("Processed 'E'")
    assert fast.processed == ["B", "C", "D", "E"]


def test_no_core_is_busy_while_it_waits_or_works(broker: Broker, channel: Any) -> None:
    def cpu_time_of(seconds: float) -> float:
        process = psutil.Process(script.process.pid)
        before = process.cpu_times()
        time.sleep(seconds)
        after = process.cpu_times()
        return float(after.user + after.system - before.user - before.system)

    with consumer(broker, 600) as script:
        script.wait_for("Waiting for orders")
        assert cpu_time_of(4) < 0.5
        assert len(script.lines) == 1, "it has nothing to say"
        put(channel, line("A"))
        script.wait_for("Received")
        assert cpu_time_of(4) < 0.5


def test_next_order_follows_at_once(broker: Broker, channel: Any) -> None:
    put(channel, *map(line, names("A", 150)))
    with consumer(broker, 0.02) as script:
        script.wait_for("Processed", times=150)
    begin, end = script.seen("(Received)")[0][1], script.seen("(Processed)")[-1][1]
    assert end - begin < 50, "3 s of work; to look for its end every half second takes 75 s"


# Ctrl-C and SIGTERM


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_signal_finishes_the_order_in_hand_and_touches_no_other(
    broker: Broker, channel: Any, number: int
) -> None:
    put(channel, *map(line, "ABC"))
    with consumer(broker, 5) as script:
        script.wait_for("Received 'A'")
        script.stop(number)
    assert script.processed == ["A"]
    assert untouched(channel) == ["B", "C"]


def test_signal_at_full_speed_leaves_the_rest_in_place(
    broker: Broker, channel: Any, draw: random.Random
) -> None:
    """Without work, it mostly comes between acknowledgement and next delivery."""
    orders = names("A", 1_000)
    put(channel, *map(line, orders))
    done: list[str] = []
    for _ in range(6):
        if not ready(channel):
            break  # this test was held up
        with consumer(broker) as script:
            script.wait_for("Processed")
            time.sleep(draw.uniform(0, 0.05))  # to hit different moments
            script.stop(SIGTERM)
        assert len(script.seen("(Received)")) == len(script.processed)
        done += script.processed
    assert [*done, *drain(channel)] == orders


def catches(script: Script, number: int) -> bool:
    """Tell whether the process has a handler for the signal."""
    status = Path(f"/proc/{script.process.pid}/status").read_text()
    caught = re.search(r"SigCgt:\s*(\w+)", status)
    assert caught
    return bool(int(caught[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize(
    "first, second", [(SIGINT, SIGINT), (SIGTERM, SIGTERM), (SIGINT, SIGTERM), (SIGTERM, SIGINT)]
)
def test_second_signal_ends_it_and_gives_the_order_back(
    broker: Broker, channel: Any, first: int, second: int
) -> None:
    put(channel, line("A"))
    with consumer(broker, 600) as script:
        script.wait_for("Received 'A'")
        script.signal(first)
        wait_until(lambda: not catches(script, second), "the first signal to be handled")
        assert not script.ended()
        script.signal(second)
        assert script.wait() == -second
    wait_until(lambda: ready(channel) == 1, "the order is back")
    assert len(script.lines) == 2, script


STOPPING = """
consume = script.BlockingChannel.consume
script.BlockingChannel.consume = lambda channel, queue, **_: consume(channel, queue)
script.stopping = True
script.consume()
"""


def test_order_that_comes_while_it_stops_is_processed(broker: Broker, channel: Any) -> None:
    put(channel, line("A"), line("B"))
    with telling_consumer(broker, change=STOPPING) as script:
        assert script.wait() == 0, script
    assert script.texts("end (.*)") == ["A"] and untouched(channel) == ["B"]


def test_signal_while_rabbitmq_is_away_ends_it(broker: Broker) -> None:
    with Network() as network, consumer(network) as script:
        script.wait_for("Error")
        script.stop()


def test_never_gives_up() -> None:
    with consumer(nowhere(), change="script.time.sleep = lambda seconds: None") as script:
        script.wait_for("ConnectionRefusedError", times=200)


# Dead letters

NO_ORDERS = [b"", b"not JSON", b"[]", line("A", amount=-5), line("A", amount=True)]
NO_ORDERS += [line(" "), b'{"order_id": "A"}', b"[" * 200_000]
NO_ORDERS += [bytes(1_000_000), bytes(range(256)), line("A").decode().encode("cp1251")]
NO_ORDERS += [line("A").replace(b"1249.5", b"1e99999999999999999999"), line("A") + line("B")]
NO_ORDERS += [line("A").decode().encode("utf-16"), b"\xef\xbb\xbf" + line("A")]


def test_what_is_no_order_is_dead_lettered_byte_for_byte(broker: Broker, channel: Any) -> None:
    put(channel, *NO_ORDERS, line("B"), headers={"mine": "kept"}, content_type="text/x")
    with consumer(broker) as script:
        script.wait_for("Processed 'B'")
        wait_until(lambda: ready(channel, "orders.dead") == len(NO_ORDERS), "all dead")
        script.stop()
    dead = list(messages(channel, "orders.dead"))
    assert sorted(body for _, _, body in dead) == sorted(NO_ORDERS)
    for _, properties, _ in dead:
        assert properties.headers["mine"] == "kept"
        assert properties.headers["x-death"][0]["reason"] == "rejected"
        assert (properties.content_type, properties.delivery_mode) == ("text/x", 2)
    assert len(script.lines) == len(NO_ORDERS) + 4, "one line each"
    assert len(script.texts("Rejected: (.+)")) == len(NO_ORDERS)
    assert max(map(len, script.lines)) < 500, "a log is no place for bodies"


def test_order_that_crashes_its_consumer_is_dead_lettered(broker: Broker, channel: Any) -> None:
    crash = "import os; script.process_order = lambda order: os.kill(os.getpid(), 9)"
    put(channel, line("CRASHES"))
    marks: list[str | None] = []
    for _ in range(21):
        wait_until(lambda: ready(channel) == 1, "it is back")
        with consumer(broker, change=crash) as script:
            assert script.wait() == -SIGKILL
        marks += script.texts(r"Received 'CRASHES'( \(redelivered\))?:")
    assert marks == [None] + [" (redelivered)"] * 20
    wait_until(lambda: ready(channel, "orders.dead") == 1, "a dead letter")
    ((_, properties, body),) = messages(channel, "orders.dead")
    assert (body, properties.headers["x-death"][0]["reason"]) == (line("CRASHES"), "delivery_limit")


# What the work on the order FAILS raises; the second one is falsy.
FAILURES = {
    "an error": "raise RuntimeError('the card was declined')",
    "a falsy error": "raise type('Falsy', (Exception,), {'__bool__': lambda self: False})",
    "an exit": "raise SystemExit(0)",
}
FAILING = """
failures = {times}
def work(order):
    global failures
    if order["order_id"] == "FAILS" and failures:
        failures -= 1
        {failure}
    order.clear()
script.process_order = work
"""


@pytest.mark.parametrize("what", FAILURES)
def test_order_whose_work_fails_is_tried_again(broker: Broker, channel: Any, what: str) -> None:
    """As where a database is away for four seconds. The next order waits."""
    put(channel, *map(line, ["FAILS", "B"]))
    change = FAILING.format(failure=FAILURES[what], times=4)
    with consumer(broker, change=change) as script:
        script.wait_for("Processed 'B'")
        script.stop()
    assert script.processed == ["FAILS", "B"]
    tries = script.texts(r"Received 'FAILS'( \(redelivered\))?:")
    assert tries == [None] + [" (redelivered)"] * 4 and script.out.count("The work failed") == 4
    assert ready(channel) == ready(channel, "orders.dead") == 0


def test_order_whose_work_always_fails_is_dead_lettered(broker: Broker, channel: Any) -> None:
    put(channel, *map(line, ["FAILS", "B"]))
    change = FAILING.format(failure=FAILURES["an error"], times=1_000)
    with consumer(broker, change=change) as script:
        script.wait_for("Processed 'B'")
        script.stop()
    begins = [at for _, at in script.seen("(Received 'FAILS')")]
    assert len(begins) == 21 == script.out.count("RuntimeError: the card was declined")
    assert 20 <= begins[-1] - begins[0] < 20 * 1.9, "a second between two of them"
    assert script.processed == ["B"]
    wait_until(lambda: ready(channel, "orders.dead") == 1, "a dead letter")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    back = re.search("### Back from orders.dead.*?python3 -c '(.*?)'\n```", readme, re.S)
    while ready(channel, "orders.dead"):
        with Script("-c", back and back[1], AMQP_URL=broker.url()) as way_back:
            assert way_back.wait() == 0, way_back
    assert untouched(channel) == ["FAILS"]


# The order in hand, and the connection


def test_nothing_is_called_processed_that_is_not_acknowledged(broker: Broker, channel: Any) -> None:
    put(channel, line("A"))
    with consumer(broker, change="script.BlockingChannel.basic_ack = None") as script:
        script.wait_for(r"Received 'A' \(redelivered\)")
    assert script.processed == []


def test_work_that_blocks_is_done_once(broker: Broker, channel: Any) -> None:
    """RabbitMQ closes a connection that is silent for two heartbeats, here 6 s."""
    put(channel, line("A"))
    with consumer(broker.url(query="?heartbeat=3"), 10) as script:
        script.wait_for("Processed 'A'")
        script.stop()
    assert len(script.lines) == 4, "no connection was lost"


def test_lost_connection_waits_for_the_work_before_the_next_begins(
    broker: Broker, channel: Any
) -> None:
    put(channel, line("A"), line("B"))
    with Network(broker.port) as network, telling_consumer(network, 5) as script:
        script.wait_for("begin A")
        network.cut()
        script.wait_for("Processed 'B'")
        script.stop()
    assert script.texts("^((?:begin|end) .)$") == ["begin A", "end A"] * 2 + ["begin B", "end B"]
    assert "Received 'A' (redelivered)" in script.out and script.processed == ["A", "B"]


def test_connection_lost_while_it_stops_gives_the_order_back(broker: Broker, channel: Any) -> None:
    put(channel, line("A"))
    with Network(broker.port) as network, telling_consumer(network, 5) as script:
        script.wait_for("begin A")
        script.signal()
        network.cut()
        assert script.wait() == 0
    assert script.out.index("end A") < script.out.index("Stopped")
    assert script.processed == []
    wait_until(lambda: ready(channel) == 1, "the order is back")


def test_order_taken_back_after_consumer_timeout_comes_again(tmp_path: Path) -> None:
    """RabbitMQ 4.0 closes the channel for it, and 4.3 cancels the consumer."""
    settings = "-rabbit consumer_timeout 2000"  # in ms; and it looks every second
    settings += " -rabbit channel_tick_interval 1000 -rabbit quorum_tick_interval 1000"
    broker = Broker(tmp_path, RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=settings)
    with running(broker), broker.connect() as connection:
        put(connection.channel(), line("A"))
        with consumer(broker, 8) as script:
            script.wait_for("Channel|timed out|cancelled by RabbitMQ")
            script.wait_for(r"Received 'A' \(redelivered\)")


def test_queue_deleted_in_mid_work_or_while_it_waits_is_declared_again(
    broker: Broker, channel: Any
) -> None:
    put(channel, line("A"))
    with consumer(broker, 3) as script:
        script.wait_for("Received 'A'")
        channel.queue_delete("orders")
        for times, order in (1, "B"), (2, "C"):
            script.wait_for("cancelled by RabbitMQ", times)
            put(channel, line(order))
            script.wait_for(f"Processed '{order}'")
            channel.queue_delete("orders")
        channel.queue_delete("orders.dead")
        script.wait_for("Waiting for orders", 4)
        script.stop()
    assert ready(channel) == ready(channel, "orders.dead") == 0, "both are there"


# Its lines


CRAFTED = ["\x1b[2J", "\x9b31m", "A\x85\u2028\u2029Z", "\u202eDEGROF\u202c", "A\x00\x08\ud800"]
CRAFTED += [f"A{end}2026-11-25 20:30:15,297 Processed FORGED" for end in "\n\r"]


def test_crafted_order_cannot_forge_a_line_nor_steer_the_terminal(
    broker: Broker, channel: Any
) -> None:
    fields = ("order_id", "customer", "status")
    orders = [{**json.loads(line("A")), field: text} for text in CRAFTED for field in fields]
    no_orders = [line("A", amount=text.encode("utf-8", "replace").decode()) for text in CRAFTED]
    with producer(broker, lines=[json.dumps(order).encode() for order in orders]) as sender:
        assert sender.wait() == 0, sender
    no_orders += [text.encode("utf-8", "replace") for text in CRAFTED]
    put(channel, *no_orders, line("LAST"))
    with consumer(broker) as script:
        script.wait_for("Processed 'LAST'")
        script.stop()
    assert len(script.lines) == 2 * len(orders) + len(no_orders) + 4
    assert len(sender.lines) == len(orders) + 1
    for text in script.lines + sender.lines:
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]", text), ascii(text)
        assert not [c for c in text if unicodedata.category(c)[0] in "CZ" and c != " "]
    assert not script.seen("^.{24}Processed (FORGED)")
