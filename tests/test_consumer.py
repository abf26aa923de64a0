"""consumer.py as a process, as a user runs it, against a real broker."""

import json
import random
import re
import time
import unicodedata
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM
from typing import Any

import pytest

from rig.broker import Broker, wait_until
from rig.orders import drain, line, messages, names, put, ready
from rig.scripts import (
    CONSUMER,
    DECLINED,
    WITHOUT_PAUSE,
    Script,
    consumer,
    failing,
    nowhere,
    producer,
    start,
)


def untouched(channel: Any) -> list[str]:
    """Take the orders that no consumer has had, and return their names."""
    found = []
    for method, properties, body in messages(channel):
        assert not method.redelivered
        assert not (properties.headers or {}).get("x-delivery-count")
        found.append(json.loads(body)["order_id"])
    return found


# The work on an order, and its time


def test_five_orders_take_two_seconds_each(broker: Broker, channel: Any) -> None:
    with start(CONSUMER, broker) as script, producer(broker):
        script.wait_for("Processed 'ORD-005'")
        script.stop()
    said = [f"{what} 'ORD-00{n}'" for n in range(1, 6) for what in ("Received", "Processed")]
    texts = [text[24:] for text in script.lines]
    assert [text.partition(":")[0] for text in texts] == ["Waiting for orders", *said, "Stopped"]
    assert texts[1] == "Received 'ORD-001': 'Иван Иванов'"
    begins, ends = (dict(script.seen(f"{what} '(.*?)'")) for what in ("Received", "Processed"))
    assert all(ends[order] - begins[order] > 1.9 for order in begins)
    assert 9.9 < ends["ORD-005"] - begins["ORD-001"] < 11.9
    assert not drain(channel)


def test_work_gets_the_whole_order_with_exact_numbers(broker: Broker, channel: Any) -> None:
    """It may even empty it: the log does not need it any more."""
    fields = '"order_id": "A", "customer": "Анна", "status": "x", "amount": 10.10'
    put(channel, f'{{{fields}, "more": [1.50, {{"n": 2}}, null]}}'.encode())
    work = "script.process_order = lambda order: print(order, flush=True) or order.clear()"
    with consumer(broker, change=work) as script:
        script.wait_for("Processed 'A'")
    fields = "'order_id': 'A', 'customer': 'Анна', 'status': 'x', 'amount': Decimal('10.10')"
    more = "[Decimal('1.50'), {'n': Decimal('2')}, None]"
    assert f"{{{fields}, 'more': {more}}}" in script.lines


def test_no_core_is_busy_while_it_waits_or_works(broker: Broker, channel: Any) -> None:
    with consumer(broker, 600) as script:
        script.wait_for("Waiting for orders")
        for lines in 1, 2:  # then it has nothing to say
            before = script.process.cpu_times()
            time.sleep(4)
            after = script.process.cpu_times()
            assert after.user + after.system - before.user - before.system < 0.5
            assert len(script.lines) == lines
            put(channel, line("A"))
            script.wait_for("Received")


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


def stopped_after(script: Script, number: int = SIGINT) -> float:
    """Stop a consumer; the seconds from the signal to its last line, by the log's clock."""
    sent = time.time()
    script.stop(number)
    return script.moments[-1] - sent


def test_idle_consumer_stops_within_two_seconds(broker: Broker) -> None:
    def attempt() -> bool:
        with consumer(broker) as script:
            script.wait_for("Waiting for orders")
            return stopped_after(script) < 2

    assert any(attempt() for _ in range(3)), "the machine may be busy, but not three times"


def test_flood_of_rubbish_does_not_put_the_stop_off(broker: Broker, channel: Any) -> None:
    put(channel, *[b"x"] * 50_000, confirm=False)
    with consumer(broker) as script:
        script.wait_for("Rejected", times=50)
        assert stopped_after(script) < 2
    assert ready(channel) > 1_000, "it was still coming"
    channel.queue_delete("orders")  # or RabbitMQ dead-letters on, beside the next tests
    channel.queue_delete("orders.dead")


def test_signal_at_full_speed_leaves_the_rest_in_place(broker: Broker, channel: Any) -> None:
    """Without work, it mostly comes between acknowledgement and next delivery."""
    orders = names("A", 2_000)
    put(channel, *map(line, orders))
    done: list[str] = []
    for _ in range(6):
        with consumer(broker) as script:
            script.wait_for("Processed", times=20)
            time.sleep(random.uniform(0, 0.05))  # to hit different moments
            script.stop(SIGTERM)
        assert script.moments[40] - script.moments[1] < 5, "it does not wait after the work"
        assert len(script.seen("(Received)")) == len(script.processed)
        done += script.processed
        if len(done) > 1_500:
            break  # this test was held up
    rest = drain(channel)
    assert [*done, *rest] == orders and rest, "a signal fell amid the stream"


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


def test_never_gives_up_but_stops_at_a_signal() -> None:
    with consumer(nowhere(), change=WITHOUT_PAUSE) as script:
        script.wait_for("ConnectionRefusedError", times=200)
        script.stop()


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


FALSY = "raise type('Falsy', (Exception,), {'__bool__': lambda self: False})"


@pytest.mark.parametrize(
    "failure, times", [(DECLINED, 4), (FALSY, 1), ("raise SystemExit(0)", 1)], ids=str
)
def test_order_whose_work_fails_is_tried_again(
    broker: Broker, channel: Any, failure: str, times: int
) -> None:
    """As where a database is away for some seconds. The next order waits."""
    put(channel, *map(line, ["FAILS", "B"]))
    with consumer(broker, change=failing(times, failure)) as script:
        script.wait_for("Processed 'B'")
        script.stop()
    assert script.processed == ["FAILS", "B"] and not drain(channel)
    tries = script.seen(r"Received 'FAILS'( \(redelivered\))?:")
    assert [mark for mark, _ in tries] == [None] + [" (redelivered)"] * times
    assert script.out.count("The work failed") == times
    assert times <= tries[-1][1] - tries[0][1] < times * 1.5 + 1, "a second between two of them"


def test_order_whose_work_always_fails_is_dead_lettered(broker: Broker, channel: Any) -> None:
    put(channel, *map(line, ["FAILS", "B"]))
    change = WITHOUT_PAUSE + failing(99)  # and nack, which 4.3 does not count, is not for it
    change += "script.BlockingChannel.basic_nack = None"
    with consumer(broker, change=change) as script:
        script.wait_for("Processed 'B'")
        script.stop()
    assert len(script.seen("(Received 'FAILS')")) == 21
    assert script.out.count("RuntimeError: the card was declined") == 21
    assert script.processed == ["B"] and len(script.seen("(Waiting for orders)")) == 1
    wait_until(lambda: ready(channel, "orders.dead") == 1, "a dead letter")
    ((_, properties, _),) = messages(channel, "orders.dead")
    assert properties.headers["x-death"][0]["reason"] == "delivery_limit"


def test_work_that_fails_after_a_signal_is_not_acknowledged(broker: Broker, channel: Any) -> None:
    put(channel, *map(line, ["FAILS", "B"]))
    failure = f"script.time.sleep(3); {DECLINED}"
    with consumer(broker, change=failing(1, failure)) as script:
        script.wait_for("Received 'FAILS'")
        script.stop()
    assert script.processed == [] and "The work failed" in script.out
    (back, properties, _), (other, _, _) = messages(channel)
    assert back.redelivered and not other.redelivered
    assert properties.headers["x-delivery-count"] == 1, "one failure"


def test_nothing_is_called_processed_that_is_not_acknowledged(broker: Broker, channel: Any) -> None:
    put(channel, line("A"))
    with consumer(broker, change="script.BlockingChannel.basic_ack = None") as script:
        script.wait_for(r"Received 'A' \(redelivered\)")
    assert script.processed == []


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
    cancelled, waiting = script.seen("(cancelled)"), script.seen("(Waiting)")[1:]
    for (_, end), (_, begin) in zip(cancelled, waiting, strict=True):
        assert begin - end > 0.99, "a pause before each new connection"
    assert not drain(channel), "both are there"


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
