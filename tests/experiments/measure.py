"""Measure what the README's analysis says.

Starts a RabbitMQ node of its own and lets consumer.py and producer.py work on it,
beside variants that nobody should use (variants.py). Prints the tables of README.md.
"""

import argparse
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
from typing import Any

from experiments.report import FOLDER, Lanes, cell, draw, markdown, renewed
from experiments.variants import call
from rig.broker import Broker, free_ports, let_new_queues_settle, wait_until
from rig.network import PUBLISH, Network
from rig.orders import counts, line, messages, put, ready
from rig.programs import own_broker, progress, run, versions
from rig.scripts import PATIENT, Script, consumer, producer

# What an experiment returns: a table's head and rows, and the panels of a picture.
Found = tuple[list[str], list[list[Any]], dict[str, Lanes]]

WORK, RUNS = 2.0, 3  # seconds an order, and how often; README.md says so, too
ORDERS = [line(f"ORD-{number}") for number in range(1, 11)]
WAYS = ["direct calls", "direct calls, repeated until answered", "queue"]
MODES = {  # when a consumer acknowledges
    "consumer": "`basic_ack` after the work (`consumer.py`)",
    "consume auto": "automatic (`auto_ack=True`), no prefetch limit",
    "consume before": "`basic_ack` before the work, no prefetch limit",
    "consume never": "`basic_ack` never, no prefetch limit",
}
CRASHING = "from experiments.variants import working\nscript.process_order = working('{}', '{}')"
NO_ACK = "script.BlockingChannel.basic_ack = lambda *_: None"


def variant(*arguments: object) -> Script:
    """Start one of variants.py."""
    return Script("-m", "experiments.variants", *arguments)


@contextlib.contextmanager
def worker(kind: str, target: object, work: float, crash: float = math.inf) -> Iterator[Script]:
    """Run a worker that dies after `crash` orders; `target`: RabbitMQ's URL, or its own port."""
    if kind == "consumer":
        script = consumer(target, change=CRASHING.format(work, crash))
    else:
        script = variant(*kind.split(), target, work, crash)
    with script:
        script.wait_for("Waiting for orders")
        yield script


def all_processed(workers: list[Script], count: int) -> None:
    """Wait until the workers together have processed so many orders."""
    wait_until(lambda: sum(len(w.processed) for w in workers) >= count, f"{count} orders done")


def nobody_is_there(channel: Any) -> None:
    """Wait until RabbitMQ knows that the consumers are dead, and has their orders back."""
    wait_until(lambda: counts(channel).consumer_count == 0, "RabbitMQ to see the consumers dead")


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


def shared(broker: Broker, cases: dict[str, dict[str, tuple[str, float]]], n: int) -> Any:
    """Let workers (name: kind, work) share n orders, in each case; return rows and panels."""
    rows, panels = [], {}
    for case, workers in cases.items():
        with queue(broker) as channel, contextlib.ExitStack() as stack:
            running = [worker(kind, broker.url(), work) for kind, work in workers.values()]
            scripts = [stack.enter_context(one) for one in running]  # started in this order
            wait_until(lambda: counts(channel).consumer_count == len(scripts), "all consume")  # noqa: B023
            put(channel, *ORDERS[:n])
            all_processed(scripts, n)
        origin = min(moment for script in scripts for _, moment in script.seen("(Received)"))
        lanes = [spans(script, origin) for script in scripts]
        took = max(end for lane in lanes for _, _, end, _ in lane)
        rows.append([case, ", ".join(str(len(lane)) for lane in lanes), took])
        panels[f"{case}: {cell([took])}"] = dict(zip(workers, lanes, strict=True))
    return rows, panels


def consumers(broker: Broker, work: float) -> Found:
    """Let one and more consumers work off five orders."""
    one, counts = ("consumer", work), [1, 2, 3, 5]
    cases = {f"{n} × consumer.py": {f"consumer {k + 1}": one for k in range(n)} for n in counts}
    rows, panels = shared(broker, cases, 5)
    for row, n in zip(rows, counts, strict=True):
        each = sorted(row[1].split(", "), reverse=True)  # who has more is chance
        row[1:2] = [", ".join(each), f"{math.ceil(5 / n) * work:g} s"]
    return ["five orders", "orders each", "ceil(5/n) × work", "measured"], rows, panels


def prefetch(broker: Broker, work: float) -> Found:
    """Let a slow and a fast consumer share ten orders."""
    kinds = {"prefetch_count=1": "consumer", "no limit": "consume after"}
    cases = {case: {"slow": (k, work), "fast": (k, work / 10)} for case, k in kinds.items()}
    return ["ten orders", "slow and fast each", "measured"], *shared(broker, cases, 10)


def without_ack(broker: Broker, work: float) -> Found:
    """Give five orders to a consumer.py that forgets its basic_ack."""
    with queue(broker, *ORDERS[:5]) as channel, contextlib.ExitStack() as stack:
        script = stack.enter_context(consumer(broker, work, change=NO_ACK))
        script.wait_for("Processed")
        time.sleep(4 * work)
        row = ["`basic_ack` does nothing", len(script.texts("(Received)")), ready(channel)]
    return ["`consumer.py`", "received in 5 × work", "still waiting"], [row], {}


def crashes(broker: Broker, work: float) -> Found:
    """Let consumers of each kind crash in their third of five orders, and second ones go on."""
    rows: list[list[Any]] = []
    for kind, words in MODES.items():
        rows.append([words])
        for count in (2.5, 3):  # of orders; with less work, as only counts matter
            with queue(broker, *ORDERS[:5]) as channel:
                with worker(kind, broker.url(), work / 4, count) as first:
                    first.wait()
                nobody_is_there(channel)
                returned = ready(channel)
                with worker(kind, broker.url(), work / 4) as second:
                    all_processed([second], returned)
                nobody_is_there(channel)
                left = ready(channel)
            done = first.texts("Worked '(.+)'") + second.texts("Worked '(.+)'")
            rows[-1].append(f"{5 - len(set(done))} lost, {len(done) - len(set(done))} twice")
        rows[-1].append(left)
    return ["acknowledgement", "killed in mid-work", "right after it", "left in queue"], rows, {}


def death_of_rabbitmq(broker: Broker, work: float) -> Found:
    """Let two senders send to a RabbitMQ that is frozen, then killed: what do they say?"""
    with queue(broker):
        let_new_queues_settle()
    rows: list[list[Any]] = [["loop without confirmation", "Sent"], ["`producer.py`", "Stored"]]
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
        for row, script in zip(rows, (loop, sender), strict=True):
            row.append(len(script.texts(f"({row[1]}) '")))
        broker.kill()
        broker.start()
        assert sender.wait() == 0, sender
    with broker.connect() as connection:
        loops = [b"LOOP" in body for *_, body in messages(connection.channel())]
    for row, script in zip(rows, (loop, sender), strict=True):
        row += [len(script.texts(f"({row[1]}) '")), loops.count(script is loop)]
    return ["sender", "says", "while it is frozen", "in the end", "in the queue"], rows, {}


def five_calls(broker: Broker, way: str, work: float, outage: float) -> tuple[list[Any], Lanes]:
    """Have five orders worked off by a worker that dies in the third if there is an outage."""
    kind, target = ("consumer", broker.url()) if way == "queue" else ("server", free_ports(1)[0])
    with contextlib.ExitStack() as stack:
        crash = 2.5 if outage else math.inf
        workers = [stack.enter_context(worker(kind, target, work, crash))]
        again = "again" if "repeated" in way else ""
        sender = producer(broker) if way == "queue" else variant("caller", target, again)
        origin = stack.enter_context(sender).started  # of all times
        lane = []
        if outage:
            workers[0].wait()
            killed = workers[0].finished - origin
            time.sleep(outage)
            workers.append(stack.enter_context(worker(kind, target, work)))
            up = workers[1].moments[0] - origin
            begin = workers[0].seen("(Received)")[2][1] - origin
            lane = [("3", begin, killed, "cut off"), ("worker down", killed, up, "down")]
        assert sender.wait() == 0, sender
        took = sender.finished - origin
        all_processed(workers, len(sender.texts("(Stored|Answered) ")))
    done = [span for script in workers for span in spans(script, origin)]
    lost, failed = 5 - len({number for number, *_ in done}), len(sender.texts("(Failed) "))
    row = [way, "down" if outage else "up", took, done[-1][2], failed, lost]
    sent = [("all five are stored, the caller is free", 0.0, took, "sending")]
    return row, {"caller": spans(sender, origin) or sent, "worker": done + lane}


def outage(broker: Broker, work: float) -> Found:
    """Have five orders worked off by direct calls and over the queue, the worker up and down."""
    with queue(broker):
        up = [five_calls(broker, way, work, 0) for way in WAYS[::2]]
        down = [five_calls(broker, way, work, max(2.5 * work, 3)) for way in WAYS]
    panels = {f"{row[0]}: {row[-1]} of 5 orders lost": lanes for row, lanes in down}
    head = ["way", "worker", "caller's process", "last processed", "failed calls", "lost"]
    return head, [row for row, _ in up + down], panels


def callers(broker: Broker, work: float) -> Found:
    """Let 200 callers send an order each at once, to two workers."""
    ports, one_at_a_time, rows = free_ports(2), threading.Lock(), []
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

        for way, kind in (("direct calls", "server"), ("queue", "consumer")):
            targets = ports if kind == "server" else [broker.url()] * 2
            scripts = [stack.enter_context(worker(kind, at, work / 20)) for at in targets]
            begin = time.time()
            with ThreadPoolExecutor(200) as pool:
                waits = list(pool.map(wait_of_caller, range(200)))
            all_processed(scripts, 200)
            last = max(at for script in scripts for _, at in script.seen("(Processed)"))
            rows.append([way, statistics.median(waits), last - begin])
    return ["200 callers at once", "median wait", "last processed"], rows, {}


# Every third is a share of the test's time.
EXPERIMENTS = [outage, crashes, death_of_rabbitmq, without_ack, consumers, prefetch, callers]


def main() -> None:
    """Measure, then print the tables; with --renew put them into README.md."""
    parser = argparse.ArgumentParser("tests/run experiments", description=__doc__)
    parser.add_argument("--renew", action="store_true", help="renew README.md and its pictures")
    renew = parser.parse_args().renew
    found: dict[str, list[Found]] = {}
    with own_broker("experiments") as (broker, _):
        measured_with = f"Measured with {versions(broker)}."
        for number in range(RUNS):
            for experiment in EXPERIMENTS:
                progress(f"run {number + 1}: {experiment.__name__}")
                found.setdefault(experiment.__name__, []).append(experiment(broker, WORK))
    text = (FOLDER / "README.md").read_text()
    text = re.sub("(?m)^Measured with .*$", measured_with, text)
    for name, runs in found.items():
        table = markdown(runs[0][0], [rows for _, rows, _ in runs])
        print(*table, sep="\n", end="\n\n")
        text = renewed(text, table)
        if renew and runs[0][2]:
            draw(FOLDER / "pictures" / f"{name}.svg", runs[0][2])  # of the first run
    if renew:
        (FOLDER / "README.md").write_text(text)


if __name__ == "__main__":
    run(main)
