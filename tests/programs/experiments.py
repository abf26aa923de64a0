"""Measure what the README's analysis says.

Starts a RabbitMQ node of its own and lets producer.py and consumer.py work on it, beside
what nobody should use: consumer.py with a change, and variants.py. Renews README's tables and
picture in both languages.
"""

import contextlib
import math
import re
import time
from collections.abc import Iterator
from datetime import date
from functools import partial

from pika.adapters.blocking_connection import BlockingChannel

from programs.report import Cell, Lane, Table, in_russian, markdown, picture, renewed
from programs.variants import automatic_ack, early_ack, no_ack, no_prefetch_limit, work_may_crash
from rig.changes import Change
from rig.node import Node, free_port, wait_until
from rig.orders import consumer_count, order_json, put, ready_count
from rig.scripts import ROOT, Program, start_consumer, start_producer
from rig.tools import own_node, progress, run, versions

WORK, RUNS = 2.0, 3  # seconds an order, and how often; README.md says so, too
README = ROOT / "README.md"
DIRECT, REPEATED, QUEUE = "direct calls", "direct calls, repeated", "queue"
ORDERS = [order_json(f"ORD-{number}") for number in range(1, 6)]

MODES: dict[str, tuple[Change, ...]] = {  # when a consumer acknowledges
    "`basic_ack` after the work (`consumer.py`)": (),
    "automatic (`auto_ack=True`)": (automatic_ack,),
    "`basic_ack` before the work, no prefetch limit": (early_ack, no_prefetch_limit),
    "`basic_ack` forgotten, no prefetch limit": (no_ack, no_prefetch_limit),
}


def variant(name: str, *arguments: object) -> Program:
    """Start one of the programs in variants.py."""
    return Program("-m", "programs.variants", name, *arguments)


@contextlib.contextmanager
def running_consumer(
    node: Node, work: float, *changes: Change, crash: float = math.inf
) -> Iterator[Program]:
    """Run a consumer; it dies after `crash` orders."""
    working = partial(work_may_crash, seconds=work, crash=crash)
    with start_consumer(node, working, *changes) as consumer:
        consumer.wait_for("Waiting for orders")
        yield consumer


@contextlib.contextmanager
def running_server(port: int, work: float, crash: float = math.inf) -> Iterator[Program]:
    """Run a worker that is called directly; it dies after `crash` orders."""
    with variant("server", port, work, crash) as server:
        server.wait_for("Waiting for orders")
        yield server


def wait_for_processed(workers: list[Program], count: int) -> None:
    """Wait until the workers together have processed so many orders."""

    def done() -> bool:
        return sum(len(worker.processed) for worker in workers) >= count

    wait_until(done, f"{count} orders done")


def returned_count(channel: BlockingChannel) -> int:
    """Return how many orders RabbitMQ has once it knows that the consumers are dead."""
    wait_until(lambda: consumer_count(channel) == 0, "RabbitMQ to see the consumers dead")
    return ready_count(channel)


@contextlib.contextmanager
def new_queue(node: Node, *bodies: bytes) -> Iterator[BlockingChannel]:
    """Give a channel, and the queue, new, with these orders in it."""
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue_delete("orders")
        put(channel, *bodies)
        yield channel


# 1. How long do five orders take?


def share(node: Node, work: float, count: int) -> list[Lane]:
    """Let so many consumers share five orders; return who had which when."""
    with new_queue(node) as channel, contextlib.ExitStack() as stack:
        consumers = [stack.enter_context(running_consumer(node, work)) for _ in range(count)]
        wait_until(lambda: consumer_count(channel) == count, "all consume")
        put(channel, *ORDERS)
        wait_for_processed(consumers, 5)
    origin = min(moment for each in consumers for moment in each.moments_of("Received"))
    lanes = []
    for each in consumers:
        spans = zip(
            each.processed, each.moments_of("Received"), each.moments_of("Processed"), strict=True
        )
        lanes.append([(name[4:], begin - origin, end - origin) for name, begin, end in spans])
    return lanes


def end_of(lanes: list[Lane]) -> float:
    """Return when the last order was processed."""
    return max(end for lane in lanes for _, _, end in lane)


def consumers(node: Node, work: float) -> tuple[Table, dict[int, list[Lane]]]:
    """Let one and more consumers process five orders; return the table, and who had which."""
    table: Table = [("consumers", "orders each", "ceil(5/n) × work", "measured")]
    lanes_by_count = {}
    for count in (1, 2, 3, 5):
        lanes = share(node, work, count)
        lanes.sort(key=len, reverse=True)  # who has more is chance
        each = ", ".join(str(len(lane)) for lane in lanes)
        table.append((count, each, f"{math.ceil(5 / count) * work:g} s", end_of(lanes)))
        lanes_by_count[count] = lanes
    return table, lanes_by_count


# 2. Is the delivery reliable, and what does basic_ack do?


def crash_of_a_consumer(node: Node, changes: tuple[Change, ...], work: float, after: float) -> str:
    """Let a consumer crash after so many of five orders, and a second one do the rest."""
    with new_queue(node, *ORDERS) as channel:
        with running_consumer(node, work, *changes, crash=after) as first:
            first.wait()
        rest = returned_count(channel)
        with running_consumer(node, work, *changes) as second:
            wait_for_processed([second], rest)
    done = first.texts("Worked '(.+)'") + second.texts("Worked '(.+)'")
    twice = len(done) - len(set(done))
    return f"{5 - len(set(done))} lost" + (f", {twice} processed twice" if twice else "")


def crashes(node: Node, work: float) -> Table:
    """Let consumers of each kind crash, and one that forgets its basic_ack go on."""
    table: Table = [("acknowledgement", "killed in mid-work", "killed right after the work")]
    short = work / 4  # only counts matter
    for mode, changes in MODES.items():
        results = [crash_of_a_consumer(node, changes, short, after) for after in (2.5, 3)]
        table.append((mode, *results))
    with new_queue(node, *ORDERS) as channel, running_consumer(node, short, no_ack) as consumer:
        consumer.wait_for("Processed")
        time.sleep(4 * short)  # as long as the other four orders would take
        words = f"stops after {len(consumer.processed)} order, {ready_count(channel)} wait"
    table.append(("`basic_ack` forgotten in `consumer.py`", words, "–"))
    return table


# 3. What is better about asynchronous calls?


def five_calls(node: Node, way: str, work: float, away: float = 0) -> tuple[Cell, ...]:
    """Have five orders processed; if `away`, by a worker that dies in the third for so long.

    Returns a row of the table.
    """
    port = free_port()

    def worker(crash: float = math.inf) -> contextlib.AbstractContextManager[Program]:
        if way == QUEUE:
            return running_consumer(node, work, crash=crash)
        return running_server(port, work, crash)

    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(worker(2.5 if away else math.inf))]
        sender = stack.enter_context(
            start_producer(node) if way == QUEUE else variant("caller", port, way == REPEATED)
        )
        if away:
            workers[0].wait()
            time.sleep(away)
            workers.append(stack.enter_context(worker()))
        assert sender.wait() == 0
        wait_for_processed(workers, sender.count("Stored|Answered"))
    took = sender.finished - sender.started
    processed = [moment for each in workers for moment in each.moments_of("Processed")]
    missing = 5 - len({order_id for each in workers for order_id in each.processed})
    last: Cell = "never" if missing else max(processed) - sender.started
    name = f"worker down for {away:g} s: {way}" if away else way
    return name, took, last, sender.count("Failed "), missing


def outage(node: Node, work: float, away: float = 5) -> Table:
    """Have five orders processed by direct calls and over the queue, the worker up and down."""
    with new_queue(node):
        rows = [five_calls(node, way, work) for way in (DIRECT, QUEUE)]
        rows += [five_calls(node, way, work, away) for way in (DIRECT, REPEATED, QUEUE)]
    head = ("five orders, one worker", "caller runs for", "last processed after", "failed calls")
    return [(*head, "not processed"), *rows]


def main() -> None:
    """Measure, then put the tables where their heads stand, and the picture in its place."""
    tables: dict[str, list[Table]] = {}
    drawn = ""
    with own_node("experiments") as node:
        measured_with = f"{versions(node)}, {date.today()}"
        for number in range(1, RUNS + 1):
            progress(f"run {number} of {RUNS}")
            table, lanes_by_count = consumers(node, WORK)
            tables.setdefault("consumers", []).append(table)
            drawn = drawn or picture(lanes_by_count)  # of the first run
            for experiment in (crashes, outage):
                progress(experiment.__name__)
                tables.setdefault(experiment.__name__, []).append(experiment(node, WORK))
    text = README.read_text()
    for runs in tables.values():
        table_text = markdown(runs)
        for each in (table_text, in_russian(table_text)):
            text = renewed(text, each)
    text = re.sub(r"(?ms)^```\nt, s .*?^```\n", lambda _: drawn, text)
    text = re.sub(
        r"RabbitMQ [\d.]+, pika [\d.]+, Python [\d.]+, \d{4}-.*?(?=\))", measured_with, text
    )
    README.write_text(text)


if __name__ == "__main__":
    run(main)
