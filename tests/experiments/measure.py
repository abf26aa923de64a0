"""Measure what the README's analysis says.

Starts a RabbitMQ node of its own and lets producer.py and consumer.py work on it, beside
what nobody should use: consumer.py with a change, and variants.py. Renews the READMEs' tables.
"""

import contextlib
import enum
import math
import os
import re
import signal
import time
from collections.abc import Iterator
from datetime import date
from functools import partial
from typing import NamedTuple

from pika.adapters.blocking_connection import BlockingChannel

from experiments.report import Cell, Lanes, Span, Table, cell, draw, markdown, renewed
from experiments.variants import automatic_ack, early_ack, no_ack, no_prefetch_limit, work_may_crash
from rig.changes import Change, patient
from rig.network import PUBLISH, Network
from rig.node import Node, free_ports, let_new_queues_settle, wait_until
from rig.orders import counts, messages, order_json, put, ready_count
from rig.scripts import ROOT, TESTS, Program, start_consumer, start_producer
from rig.tools import own_node, progress, run, versions

WORK, RUNS = 2.0, 3  # seconds an order, and how often; README.md says so, too
READMES = (ROOT / "README.md", TESTS / "README.md")  # which have the tables
PICTURE = TESTS / "experiments/consumers.svg"
ORDERS = [order_json(f"ORD-{number}") for number in range(1, 11)]

MODES: dict[str, tuple[Change, ...]] = {  # when a consumer acknowledges
    "`basic_ack` after the work (`consumer.py`)": (),
    "automatic (`auto_ack=True`), no prefetch limit": (automatic_ack, no_prefetch_limit),
    "`basic_ack` before the work, no prefetch limit": (early_ack, no_prefetch_limit),
    "`basic_ack` forgotten, no prefetch limit": (no_ack, no_prefetch_limit),
}


class Found(NamedTuple):
    """What an experiment has found: a table, and the panels of a picture, if there is one."""

    table: Table
    panels: dict[str, Lanes]  # by their captions


class Way(enum.Enum):
    """How a caller has its orders worked off."""

    DIRECT = "direct calls"
    REPEATED = "direct calls, repeated until answered"
    QUEUE = "queue"


def variant(name: str, *arguments: object) -> Program:
    """Start one of the programs in variants.py."""
    return Program("-m", "experiments.variants", name, *arguments)


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
    wait_until(lambda: counts(channel).consumer_count == 0, "RabbitMQ to see the consumers dead")
    return ready_count(channel)


@contextlib.contextmanager
def new_queue(node: Node, *bodies: bytes) -> Iterator[BlockingChannel]:
    """Give a channel, and the queue, new, with these orders in it."""
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue_delete("orders")
        put(channel, *bodies)
        yield channel


def spans(program: Program, origin: float) -> list[Span]:
    """Return which orders it was done with, and when, in seconds after the origin."""
    begins = program.seen(r"Received '\w+-0*(\d+)'")
    ends = program.seen("(Processed)")
    return [
        Span(number, begin - origin, end - origin)
        for (number, begin), (_, end) in zip(begins, ends, strict=True)
    ]


# 1. How long do five orders take?


def share(node: Node, works: dict[str, float], count: int, *changes: Change) -> Lanes:
    """Let consumers (name: seconds of work) share orders; return who had which, and when."""
    with new_queue(node) as channel, contextlib.ExitStack() as stack:
        consumers = [
            stack.enter_context(running_consumer(node, work, *changes)) for work in works.values()
        ]
        wait_until(lambda: counts(channel).consumer_count == len(consumers), "all consume")
        put(channel, *ORDERS[:count])
        wait_for_processed(consumers, count)
    origin = min(moment for each in consumers for _, moment in each.seen("(Received)"))
    return {name: spans(each, origin) for name, each in zip(works, consumers, strict=True)}


def end_of(lanes: Lanes) -> float:
    """Return when the last span ends."""
    return max(span.end for lane in lanes.values() for span in lane)


def consumers(node: Node, work: float) -> Found:
    """Let one and more consumers work off five orders."""
    table: Table = [("consumers", "orders each", "ceil(5/n) × work", "measured")]
    panels = {}
    for number in (1, 2, 3, 5):
        lanes = share(node, {f"consumer {k + 1}": work for k in range(number)}, 5)
        took = end_of(lanes)
        each = sorted(map(len, lanes.values()), reverse=True)  # who has more is chance
        expected = f"{math.ceil(5 / number) * work:g} s"
        table.append((number, ", ".join(map(str, each)), expected, took))
        panels[f"{number} × consumer.py: {cell([took])}"] = lanes
    return Found(table, panels)


def prefetch(node: Node, work: float) -> Found:
    """Let a slow and a fast consumer share ten orders."""
    table: Table = [("ten orders", "orders of slow, fast", "measured")]
    for case, changes in (("prefetch_count=1", ()), ("no limit", (no_prefetch_limit,))):
        lanes = share(node, {"slow": work, "fast": work / 10}, 10, *changes)
        table.append((case, f"{len(lanes['slow'])}, {len(lanes['fast'])}", end_of(lanes)))
    return Found(table, {})


# 2. Is the delivery reliable, and what does basic_ack do?


def crash_of_a_consumer(node: Node, changes: tuple[Change, ...], work: float, after: float) -> str:
    """Let a consumer crash after so many of five orders, and a second one do the rest."""
    with new_queue(node, *ORDERS[:5]) as channel:
        with running_consumer(node, work, *changes, crash=after) as first:
            first.wait()
        rest = returned_count(channel)
        with running_consumer(node, work, *changes) as second:
            wait_for_processed([second], rest)
        forgotten = no_ack in changes
        assert returned_count(channel) == (5 if forgotten else 0)
    done = first.texts("Worked '(.+)'") + second.texts("Worked '(.+)'")
    twice = len(done) - len(set(done))
    return f"{5 - len(set(done))} lost" + (f", {twice} processed twice" if twice else "")


def crashes(node: Node, work: float) -> Found:
    """Let consumers of each kind crash, and one that forgets its basic_ack go on."""
    table: Table = [("acknowledgement", "killed in mid-work", "killed right after the work")]
    short = work / 4  # only counts matter
    for mode, changes in MODES.items():
        results = [crash_of_a_consumer(node, changes, short, after) for after in (2.5, 3)]
        table.append((mode, *results))
    with new_queue(node, *ORDERS[:5]) as channel, running_consumer(node, short, no_ack) as consumer:
        consumer.wait_for("Processed")
        time.sleep(4 * short)  # as long as the other four orders would take
        done = len(consumer.processed)
        words = f"stands still after {done} order, {ready_count(channel)} wait"
    table.append(("`basic_ack` forgotten in `consumer.py`", words, ""))
    return Found(table, {})


def death_of_rabbitmq(node: Node, work: float) -> Found:
    """Let two senders send to a RabbitMQ that is frozen, then killed: what do they say?"""
    with new_queue(node):
        let_new_queues_settle()
    with Network(node.port) as network, contextlib.ExitStack() as stack:
        network.hold_up_at(PUBLISH)  # the first order of producer.py
        producer = stack.enter_context(start_producer(network, patient))
        loop = stack.enter_context(variant("loop", node.url()))
        loop.wait_for("Connected")
        wait_until(network.held.is_set, "producer.py to publish")
        assert node.process
        os.kill(node.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, node.process.pid, os.WSTOPPED)  # until all its threads stand
        network.release()
        loop.close_input()  # the sign for it to go on
        loop.wait_for("Sent", 5)
        time.sleep(0.5)  # producer.py would have said so too by now
        sent, stored = loop.count("Sent "), len(producer.stored)
        node.kill()
        node.start()
        assert producer.wait() == 0
    with node.connect() as connection:
        bodies = [body for _, _, body in messages(connection.channel())]
    from_loop = sum(b"LOOP" in body for body in bodies)
    from_producer = len(bodies) - from_loop
    table: Table = [
        ("sender", "says", "while it is frozen", "in the end", "in the queue"),
        ("loop without confirmation", "Sent", sent, loop.count("Sent "), from_loop),
        ("`producer.py`", "Stored", stored, len(producer.stored), from_producer),
    ]
    return Found(table, {})


# 3. What is better about asynchronous calls?


def five_calls(node: Node, way: Way, work: float, away: float = 0) -> tuple[Cell, ...]:
    """Have five orders worked off; if `away`, by a worker that dies in the third for so long.

    Returns a row of the table.
    """
    port = free_ports(1)[0]

    def worker(crash: float = math.inf) -> contextlib.AbstractContextManager[Program]:
        if way is Way.QUEUE:
            return running_consumer(node, work, crash=crash)
        return running_server(port, work, crash)

    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(worker(2.5 if away else math.inf))]
        if way is Way.QUEUE:
            sender = stack.enter_context(start_producer(node))
        else:
            sender = stack.enter_context(variant("caller", port, way is Way.REPEATED))
        if away:
            workers[0].wait()
            time.sleep(away)
            workers.append(stack.enter_context(worker()))
        assert sender.wait() == 0
        wait_for_processed(workers, sender.count("Stored|Answered"))
    took = sender.finished - sender.started
    processed = [moment for each in workers for _, moment in each.seen("(Processed)")]
    missing = 5 - len({order_id for each in workers for order_id in each.processed})
    last: Cell = "never" if missing else max(processed) - sender.started
    name = f"worker down for {away:g} s: {way.value}" if away else way.value
    return name, took, last, sender.count("Failed "), missing


def outage(node: Node, work: float) -> Found:
    """Have five orders worked off by direct calls and over the queue, the worker up and down."""
    away = max(2.5 * work, 3)
    with new_queue(node):
        rows = [five_calls(node, way, work) for way in (Way.DIRECT, Way.QUEUE)]
        rows += [five_calls(node, way, work, away) for way in Way]
    head = ("five orders, one worker", "caller runs for", "last processed", "failed calls")
    return Found([(*head, "not processed"), *rows], {})


EXPERIMENTS = [consumers, prefetch, crashes, death_of_rabbitmq, outage]


def main() -> None:
    """Measure, then put the tables where their heads stand, and draw the pictures."""
    found: dict[str, list[Found]] = {}
    with own_node("experiments") as node:
        measured_with = f"Measured with {versions(node)}, on {date.today()}."
        for number in range(RUNS):
            for experiment in EXPERIMENTS:
                progress(f"run {number + 1}: {experiment.__name__}")
                found.setdefault(experiment.__name__, []).append(experiment(node, WORK))
    for path in READMES:
        text = re.sub("(?m)^Measured with .*$", measured_with, path.read_text())
        for runs in found.values():
            text = renewed(text, markdown([each.table for each in runs]))
        path.write_text(text)
    draw(PICTURE, found["consumers"][0].panels)  # of the first run


if __name__ == "__main__":
    run(main)
