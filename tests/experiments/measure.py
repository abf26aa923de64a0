"""Measure what the README's analysis says.

Starts a RabbitMQ node of its own and lets producer.py and consumer.py work on it, beside
what nobody should use: consumer.py with a change, and variants.py. Renews the READMEs' tables.
"""

import contextlib
import math
import os
import re
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from typing import Any

from experiments.report import Lanes, Table, cell, draw, markdown, renewed
from experiments.variants import call
from rig.broker import Broker, free_ports, let_new_queues_settle, wait_until
from rig.network import PUBLISH, Network
from rig.orders import counts, line, messages, put, ready
from rig.programs import own_broker, progress, run, versions
from rig.scripts import PATIENT, ROOT, TESTS, Script, consumer, producer

Found = tuple[Table, dict[str, Lanes]]  # a table, and the panels of a picture

WORK, RUNS = 2.0, 3  # seconds an order, and how often; README.md says so, too
READMES = (ROOT / "README.md", TESTS / "README.md")  # which have the tables
PICTURES = TESTS / "experiments/pictures"
ORDERS = [line(f"ORD-{number}") for number in range(1, 11)]

# Changes of consumer.py.
CRASHING = "from experiments.variants import working\nscript.process_order = working('{}', '{}')\n"
NO_LIMIT = "script.BlockingChannel.basic_qos = lambda *_, **__: None\n"
NO_ACK = "script.BlockingChannel.basic_ack = lambda *_: None\n"
AUTO_ACK = """
consume = script.BlockingChannel.consume
script.BlockingChannel.consume = lambda *a, **k: consume(*a, **k, auto_ack=True)
"""
ACK_FIRST = """
ack, handle = script.BlockingChannel.basic_ack, script.handle
script.handle = lambda channel, m, body: ack(channel, m.delivery_tag) or handle(channel, m, body)
"""
MODES = {  # when a consumer acknowledges
    "`basic_ack` after the work (`consumer.py`)": "",
    "automatic (`auto_ack=True`), no prefetch limit": AUTO_ACK + NO_ACK + NO_LIMIT,
    "`basic_ack` before the work, no prefetch limit": ACK_FIRST + NO_ACK + NO_LIMIT,
    "`basic_ack` forgotten, no prefetch limit": NO_ACK + NO_LIMIT,
}

variant = partial(Script, "-m", "experiments.variants")  # starts one of variants.py


@contextlib.contextmanager
def worker(at: Any, work: float, crash: float = math.inf, change: str = "") -> Iterator[Script]:
    """Run a consumer of the broker `at`, or a server at that port; it dies after `crash` orders."""
    change = CRASHING.format(work, crash) + change
    server = isinstance(at, int)
    with variant("server", at, work, crash) if server else consumer(at, change=change) as script:
        script.wait_for("Waiting for orders")
        yield script


def all_processed(workers: list[Script], count: int) -> None:
    """Wait until the workers together have processed so many orders."""
    wait_until(lambda: sum(len(w.processed) for w in workers) >= count, f"{count} orders done")


def returned(channel: Any) -> int:
    """Return how many orders RabbitMQ has once it knows that the consumers are dead."""
    wait_until(lambda: counts(channel).consumer_count == 0, "RabbitMQ to see the consumers dead")
    return ready(channel)


@contextlib.contextmanager
def queue(broker: Broker, *bodies: bytes) -> Iterator[Any]:
    """Give a channel, and the queue, new, with these orders in it."""
    with broker.connect() as connection:
        channel = connection.channel()
        channel.queue_delete("orders")
        put(channel, *bodies)
        yield channel


def spans(script: Script, origin: float) -> list[tuple[str, float, float, str]]:
    """Return which orders it was done with, and when, in seconds after the origin."""
    begins = script.seen(r"(?:Received|Calling) '\w+-0*(\d+)'")
    ends = script.seen("(Processed|Answered|Failed) ")
    both = zip(begins, ends, strict=False)
    return [(number, begin - origin, end - origin, how) for (number, begin), (how, end) in both]


def share(broker: Broker, works: dict[str, float], n: int, change: str = "") -> tuple[float, Lanes]:
    """Let consumers (name: work) share n orders; return how long it took, and who had which."""
    with queue(broker) as channel, contextlib.ExitStack() as stack:
        scripts = [stack.enter_context(worker(broker, w, change=change)) for w in works.values()]
        wait_until(lambda: counts(channel).consumer_count == len(scripts), "all consume")
        put(channel, *ORDERS[:n])
        all_processed(scripts, n)
    origin = min(moment for script in scripts for _, moment in script.seen("(Received)"))
    lanes = {name: spans(script, origin) for name, script in zip(works, scripts, strict=True)}
    return max(end for lane in lanes.values() for _, _, end, _ in lane), lanes


def consumers(broker: Broker, work: float) -> Found:
    """Let one and more consumers work off five orders."""
    table: Table = [("consumers", "orders each", "ceil(5/n) × work", "measured")]
    panels = {}
    for n in (1, 2, 3, 5):
        took, lanes = share(broker, {f"consumer {k + 1}": work for k in range(n)}, 5)
        each = sorted(map(len, lanes.values()), reverse=True)  # who has more is chance
        table.append((n, str(each)[1:-1], f"{math.ceil(5 / n) * work:g} s", took))
        panels[f"{n} × consumer.py: {cell([took])}"] = lanes
    return table, panels


def prefetch(broker: Broker, work: float) -> Found:
    """Let a slow and a fast consumer share ten orders."""
    table: Table = [("ten orders", "orders of slow, fast", "measured")]
    for case, change in (("prefetch_count=1", ""), ("no limit", NO_LIMIT)):
        took, lanes = share(broker, {"slow": work, "fast": work / 10}, 10, change)
        table.append((case, f"{len(lanes['slow'])}, {len(lanes['fast'])}", took))
    return table, {}


def crash(broker: Broker, change: str, work: float, after: float) -> str:
    """Let a consumer crash after so many of five orders, and a second one do the rest."""
    with queue(broker, *ORDERS[:5]) as channel:
        with worker(broker, work, after, change) as first:
            first.wait()
        rest = returned(channel)
        with worker(broker, work, change=change) as second:
            all_processed([second], rest)
        assert returned(channel) == (5 if change == NO_ACK + NO_LIMIT else 0)
    done = first.texts("Worked '(.+)'") + second.texts("Worked '(.+)'")
    twice = len(done) - len(set(done))
    return f"{5 - len(set(done))} lost" + (f", {twice} processed twice" if twice else "")


def crashes(broker: Broker, work: float) -> Found:
    """Let consumers of each kind crash, and one that forgets its basic_ack go on."""
    table: Table = [("acknowledgement", "killed in mid-work", "killed right after the work")]
    work /= 4  # only counts matter
    for mode, change in MODES.items():
        table.append((mode, *(crash(broker, change, work, after) for after in (2.5, 3))))
    with queue(broker, *ORDERS[:5]) as channel, worker(broker, work, change=NO_ACK) as script:
        script.wait_for("Processed")
        time.sleep(4 * work)  # as long as the other four orders would take
        words = f"stands still after {len(script.processed)} order, {ready(channel)} wait"
    return [*table, ("`basic_ack` forgotten in `consumer.py`", words, "")], {}


def death_of_rabbitmq(broker: Broker, work: float) -> Found:
    """Let two senders send to a RabbitMQ that is frozen, then killed: what do they say?"""
    with queue(broker):
        let_new_queues_settle()
    with Network(broker.port) as network, contextlib.ExitStack() as stack:
        network.hold_up_at(PUBLISH)  # the first order of producer.py
        sender = stack.enter_context(producer(network, change=PATIENT))
        loop = stack.enter_context(variant("loop", broker.url()))
        loop.wait_for("Connected")
        wait_until(network.held.is_set, "producer.py to publish")
        assert broker.process and loop.process.stdin
        os.kill(broker.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, broker.process.pid, os.WSTOPPED)  # until all its threads stand
        network.release()
        loop.process.stdin.close()  # the sign for it to go on
        loop.wait_for("Sent", 5)
        time.sleep(0.5)  # producer.py would have said so too by now
        sent, stored = len(loop.texts("(Sent) ")), len(sender.stored)
        broker.kill()
        broker.start()
        assert sender.wait() == 0, sender
    with broker.connect() as connection:
        ours = [b"LOOP" not in body for *_, body in messages(connection.channel())]
    return [
        ("sender", "says", "while it is frozen", "in the end", "in the queue"),
        ("loop without confirmation", "Sent", sent, len(loop.texts("(Sent) ")), ours.count(False)),
        ("`producer.py`", "Stored", stored, len(sender.stored), ours.count(True)),
    ], {}


def five_calls(broker: Broker, way: str, work: float, outage: float = 0) -> tuple[Any, Lanes]:
    """Have five orders worked off by a worker that dies in the third if there is an outage."""
    at: Any = broker if way == "queue" else free_ports(1)[0]
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(worker(at, work, 2.5 if outage else math.inf))]
        sender = producer(broker) if way == "queue" else variant("caller", at, way)
        origin = stack.enter_context(sender).started  # of all times
        lane = []
        if outage:
            workers[0].wait()
            killed = workers[0].finished - origin
            time.sleep(outage)
            workers.append(stack.enter_context(worker(at, work)))
            up = workers[1].moments[0] - origin
            begin = workers[0].seen("(Received)")[2][1] - origin
            lane = [("3", begin, killed, "cut off"), ("worker down", killed, up, "down")]
            way = f"worker down for {outage:g} s: {way}"
        assert sender.wait() == 0, sender
        took = sender.finished - origin
        all_processed(workers, len(sender.texts("(Stored|Answered) ")))
    done = [span for script in workers for span in spans(script, origin)]
    missing = 5 - len({number for number, *_ in done})
    last = "never" if missing else done[-1][2]
    sent = [("all five are stored, the caller is free", 0.0, took, "sending")]
    lanes = {"caller": spans(sender, origin) or sent, "worker": done + lane}
    return (way, took, last, len(sender.texts("(Failed) ")), missing), lanes


def outage(broker: Broker, work: float) -> Found:
    """Have five orders worked off by direct calls and over the queue, the worker up and down."""
    ways = ["direct calls", "direct calls, repeated until answered", "queue"]
    with queue(broker):
        up = [five_calls(broker, way, work) for way in ways[::2]]
        down = [five_calls(broker, way, work, max(2.5 * work, 3)) for way in ways]
    head = ("five orders, one worker", "caller runs for", "last processed", "failed calls")
    table = [(*head, "not processed"), *(row for row, _ in up + down)]
    both = zip(ways, down, strict=True)
    return table, {f"{way}: {row[-1]} of 5 orders not processed": all_ for way, (row, all_) in both}


def callers(broker: Broker, work: float) -> Found:
    """Let 200 callers send an order each at once, to two workers."""
    ports, one_at_a_time = free_ports(2), threading.Lock()
    table: Table = [("200 callers at once", "they wait for", "median wait", "last processed")]
    with queue(broker) as channel, contextlib.ExitStack() as stack:
        channel.confirm_delivery()

        def wait_of_caller(n: int) -> float:
            begin = time.monotonic()
            if way == "direct calls":
                call(ports[n % 2], ORDERS[0])
            else:
                with one_at_a_time:  # one open connection for all, as in a web application
                    channel.basic_publish("", "orders", ORDERS[0], mandatory=True)
            return time.monotonic() - begin

        for way, result in (("direct calls", "the result"), ("queue", "the confirmation")):
            places = [broker, broker] if way == "queue" else ports
            scripts = [stack.enter_context(worker(at, work / 20)) for at in places]
            begin = time.time()
            with ThreadPoolExecutor(200) as pool:
                wait = statistics.median(pool.map(wait_of_caller, range(200)))
            all_processed(scripts, 200)
            last = max(at for script in scripts for _, at in script.seen("(Processed)"))
            table.append((way, result, wait, last - begin))
    return table, {}


EXPERIMENTS = [consumers, prefetch, crashes, death_of_rabbitmq, outage, callers]


def main() -> None:
    """Measure, then put the tables where their heads stand, and draw the pictures."""
    found: dict[str, list[Found]] = {}
    with own_broker("experiments") as broker:
        measured_with = f"Measured with {versions(broker)}."
        for number in range(RUNS):
            for experiment in EXPERIMENTS:
                progress(f"run {number + 1}: {experiment.__name__}")
                found.setdefault(experiment.__name__, []).append(experiment(broker, WORK))
    tables = [markdown([table for table, _ in runs]) for runs in found.values()]
    for path in READMES:
        text = re.sub("(?m)^Measured with .*$", measured_with, path.read_text())
        path.write_text(reduce(renewed, tables, text))
    for picture in PICTURES.glob("*.svg"):
        draw(picture, found[picture.stem][0][1])  # of the first run


if __name__ == "__main__":
    run(main)
