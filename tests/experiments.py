"""The three answers, measured: time for five orders, delivery, asynchronous against synchronous.

Starts a RabbitMQ node of its own, lets the real consumer.py and producer.py work on it, beside
variants of them that nobody should use (variants.py), and prints in Markdown what it measured.
"""

import argparse
import contextlib
import functools
import json
import math
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pika
from support import ROOT, Broker, Script, consumer, messages, producer, ready, wait_until
from timelines import FAILED, Interval, Lane, Timeline, in_blocks, in_svg
from variants import QUEUES, call

VARIANTS = ROOT / "tests" / "variants.py"
QUEUE = "orders"
ORDERS = 5  # what producer.py sends when it is not given a file
RECEIVED = r"Received (\w+-\d+)"
DONE = r"(?:Processed|Worked) (\w+-\d+)"
SENT = r"Sent .*?(\w+-\d+)"
STORED = r"orders stored in ([\d.]+) s"

Result = Dict[str, Any]
started = time.monotonic()


def progress(text: str) -> None:
    """Say on stderr what is being measured."""
    print(f"{time.monotonic() - started:5.0f} s  {text}", file=sys.stderr, flush=True)


def variant(broker: Broker, *arguments: object) -> Script:
    """Start one of the variants against the broker."""
    return Script(VARIANTS, *arguments, url=broker.url())


def seen(script: Script, pattern: str) -> List[Tuple[str, float]]:
    """Return (order, time of arrival) of each line of the script that the pattern matches."""
    lines = zip(list(script.lines["stdout"]), script.arrivals["stdout"])
    return [(found[1], arrival) for line, arrival in lines for found in [re.search(pattern, line)] if found]


def spans(script: Script, origin: float, begin: str = RECEIVED, end: str = DONE) -> List[Interval]:
    """Return which order the script had from when to when; an order that it never ended is left out."""
    ends = seen(script, end)
    return [
        (str(int(order.split("-")[1])), start - origin, stop - origin)
        for (order, start), (_, stop) in zip(seen(script, begin), ends)
    ]


def spans_of_both(workers: List[Script], origin: float, killed: float) -> List[Interval]:
    """Return the same of a worker that was killed in its third order and of the one that came after it."""
    cut_off = [(FAILED, seen(workers[0], RECEIVED)[2][1] - origin, killed - origin)] if killed else []
    first, *second = [spans(worker, origin) for worker in workers]
    return [*first, *cut_off, *(span for later in second for span in later)]


def first_publish(sender: Script) -> float:
    """Return when producer.py published its first order.

    It says after the broker's confirmation how long that took; what is returned is as exact as that.
    """
    sender.wait_for(STORED)
    (took, arrival), *_ = seen(sender, STORED)
    return arrival - float(took)


@contextlib.contextmanager
def queue(broker: Broker) -> Iterator[Any]:
    """Give a channel, the queues declared as the scripts do and empty."""
    with broker.connect() as connection:
        channel = connection.channel()
        for name, arguments in QUEUES.items():
            channel.queue_declare(name, durable=True, arguments=arguments)
            channel.queue_purge(name)
        yield channel


def consumers(channel: Any) -> int:
    """Return how many consumers the broker sees at the queue."""
    return int(channel.queue_declare(QUEUE, passive=True).method.consumer_count)


def subscribed(channel: Any, count: int) -> None:
    """Wait until the broker sees so many consumers at the queue."""
    wait_until(lambda: consumers(channel) == count, f"{count} consumers at the queue")


def all_done(scripts: List[Script], count: int, limit: float = 60) -> None:
    """Wait until the scripts together are done with so many orders."""
    wait_until(lambda: sum(len(seen(s, DONE)) for s in scripts) >= count, f"{count} orders done", limit)


def orders_text(count: int, prefix: str = "ORD") -> bytes:
    """Return so many orders as JSON Lines."""
    order = {"customer": "Иван Иванов", "amount": 5000, "status": "pending"}
    orders = [{"order_id": f"{prefix}-{number:03}", **order} for number in range(1, count + 1)]
    return "".join(f"{json.dumps(order, ensure_ascii=False)}\n" for order in orders).encode()


class MissedError(Exception):
    """A signal came too late to hit what it was meant to hit."""


def until_hit(experiment: Callable[..., Result]) -> Callable[..., Result]:
    """Have the experiment repeated if its signal missed, as it may where the machine is busy."""

    @functools.wraps(experiment)
    def repeated(*arguments: Any, **options: Any) -> Result:
        for _ in range(9):
            with contextlib.suppress(MissedError):
                return experiment(*arguments, **options)
        return experiment(*arguments, **options)

    return repeated


def kill_in_third(worker: Script, work: float) -> float:
    """SIGKILL the worker when half of the work on its third order is done; return when that was."""
    wait_until(lambda: len(seen(worker, RECEIVED)) >= 3, "the third order")
    time.sleep(max(seen(worker, RECEIVED)[2][1] + work / 2 - time.monotonic(), 0))
    worker.process.kill()
    killed = time.monotonic()
    worker.wait()
    if len(seen(worker, DONE)) != 2:
        raise MissedError
    return killed


# Time for five orders


def time_for_five(broker: Broker, count: int, work: float) -> Result:
    """Let so many consumers work off the five sample orders."""
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(queue(broker))
        workers = []
        for number in range(count):  # one by one, so that consumer 1 is the first in the queue's round
            workers.append(stack.enter_context(consumer(broker, "--processing-time", work)))
            subscribed(channel, number + 1)
        sender = stack.enter_context(producer(broker))
        all_done(workers, ORDERS)
        origin = first_publish(sender)
        decimals = len(seen(sender, STORED)[0][0].partition(".")[2])
        lanes = [(f"consumer {n}", spans(worker, origin)) for n, worker in enumerate(workers, 1)]
    took = max(stop for _, lane in lanes for _, _, stop in lane)
    theory = math.ceil(ORDERS / count) * work
    return {
        "consumers": count,
        "rounds": math.ceil(ORDERS / count),
        "theory_s": theory,
        "measured_s": took,
        "overhead_ms": (took - theory) * 1000,
        "precision_ms": 1000 * 10**-decimals / 2,
        "orders_each": [len(lane) for _, lane in lanes],
        "lanes": lanes,
    }


def slow_and_fast(broker: Broker, limit: bool, work: float, orders: int = 10) -> Result:
    """Let a slow and a fast consumer share ten orders, with prefetch_count=1 or with no limit."""
    options = [("slow", work), ("fast", work / 10)]
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(queue(broker))
        workers = []
        for number, (_, seconds) in enumerate(options, 1):
            settings = ("--processing-time", seconds)
            no_limit = ("worker", "--ack", "after", "--prefetch", 0)
            worker = consumer(broker, *settings) if limit else variant(broker, *no_limit, *settings)
            workers.append(stack.enter_context(worker))
            subscribed(channel, number)
        sender = stack.enter_context(producer(broker, "-", stdin=orders_text(orders)))
        all_done(workers, orders)
        origin = first_publish(sender)
        lanes = [(name, spans(worker, origin)) for (name, _), worker in zip(options, workers)]
    return {
        "prefetch": 1 if limit else None,
        "orders": orders,
        "work_s": dict(options),
        "orders_each": {name: len(lane) for name, lane in lanes},
        "measured_s": max(stop for _, lane in lanes for _, _, stop in lane),
        "lanes": lanes,
    }


# Delivery

MODES = {
    "after": "`basic_ack` after the work (`consumer.py`)",
    "auto": "automatic (`auto_ack=True`)",
    "before": "`basic_ack` before the work",
    "never": "`basic_ack` forgotten, no prefetch limit",
}


@until_hit
def crash(broker: Broker, mode: str, mid_work: bool, work: float) -> Result:
    """SIGKILL a consumer at its third of five orders, let a second one do what is left, and count.

    Mid-work: half of the work on the third order is done. Else: that work is done, and nothing
    has been sent to the broker since.
    """
    seconds = ("--processing-time", work)
    prefetch = 0 if mode in ("auto", "never") else 1

    def start(die_after: int) -> Script:
        if mode == "after" and not die_after:
            return consumer(broker, *seconds)
        role = "consumer" if mode == "after" else "worker"
        settings = ("--ack", mode, "--prefetch", prefetch, "--die-after", die_after)
        return variant(broker, role, *settings, *seconds)

    def done(script: Script) -> List[str]:
        # consumer.py says Processed after the acknowledgement, everything else Worked before it.
        worked = seen(script, r"Worked (\w+-\d+)") or seen(script, r"Processed (\w+-\d+)")
        return [order for order, _ in worked]

    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(queue(broker))
        with producer(broker) as sender:
            assert sender.wait() == 0, sender
            orders = [order for order, _ in seen(sender, SENT)]
        first = stack.enter_context(start(0 if mid_work else 3))
        if mid_work:
            kill_in_third(first, work)
        first.wait()
        subscribed(channel, 0)  # the broker has seen it die, and has taken its orders back
        returned = ready(channel)
        second = stack.enter_context(start(0))
        subscribed(channel, 1)
        wait_until(
            lambda: ready(channel) == 0 and len(seen(second, RECEIVED)) == len(done(second)) >= returned,
            "the second consumer to do what is left",
        )
        second.signal(signal.SIGTERM)
        second.wait()
        subscribed(channel, 0)
        worked = done(first) + done(second)
        begun = [order for script in (first, second) for order, _ in seen(script, RECEIVED)]
        return {
            "acknowledgement": mode,
            "crash": "in mid-work" if mid_work else "after the work",
            "orders": len(orders),
            "processed": len(set(worked)),
            "lost": len(set(orders) - set(worked)),
            "twice": sum(worked.count(order) > 1 for order in orders),
            "begun_twice": sum(begun.count(order) > 1 for order in orders),
            "left_in_queue": ready(channel),
        }


RESTART = [  # the queue's name, its type, whether it is durable, and the delivery mode of its messages
    ("durable-persistent", "classic", True, 2),
    ("durable-transient", "classic", True, 1),
    ("transient-persistent", "classic", False, 2),
    ("transient-transient", "classic", False, 1),
    ("quorum-persistent", "quorum", True, 2),
    ("quorum-transient", "quorum", True, 1),
]


def restart(broker: Broker) -> List[Result]:
    """Put five confirmed messages into queues of each kind, restart the node in good order, and count."""

    def fill(name: str, kind: str, durable: bool, delivery_mode: int) -> Optional[int]:
        with broker.connect() as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.queue_declare(name, durable=durable, arguments={"x-queue-type": kind})
            for number in range(ORDERS):
                properties = pika.BasicProperties(delivery_mode=delivery_mode)
                channel.basic_publish("", name, str(number).encode(), properties, mandatory=True)
            return ready(channel, name)

    def count(name: str) -> int:
        with broker.connect() as connection, contextlib.suppress(pika.exceptions.ChannelClosedByBroker):
            channel = connection.channel()
            found = len(list(messages(channel, name)))
            channel.queue_delete(name)
            return found
        return 0  # the queue itself is gone

    results = []
    for name, kind, durable, delivery_mode in RESTART:
        try:
            before: Optional[int] = fill(name, kind, durable, delivery_mode)
        except pika.exceptions.AMQPError:  # later versions of RabbitMQ refuse transient queues
            before = None
        results.append({"type": kind, "durable": durable, "persistent": delivery_mode == 2, "before": before})
    broker.stop()
    broker.start()
    for (name, *_), result in zip(RESTART, results):
        result["after"] = count(name) if result["before"] is not None else None
    return results


def crash_of_the_broker(broker: Broker) -> List[Result]:
    """Let two senders send five orders to a broker that hangs and then dies: what did they say is sent?"""
    with contextlib.ExitStack() as stack:
        with queue(broker):
            time.sleep(1.5)  # a quorum queue that is new needs a second until it outlives a SIGKILL
        senders = {name: stack.enter_context(variant(broker, name)) for name in ("loop", "producer")}
        for sender in senders.values():
            sender.wait_for("Connected")
        broker_pid = broker.process.pid if broker.process else 0
        os.kill(broker_pid, signal.SIGSTOP)
        try:
            for sender in senders.values():
                sender.signal(signal.SIGUSR1)
            wait_until(lambda: len(seen(senders["loop"], SENT)) == ORDERS, "the loop to send")
            time.sleep(0.5)  # producer.py would have said so too by now
            said_before = {name: len(seen(sender, SENT)) for name, sender in senders.items()}
        finally:
            os.kill(broker_pid, signal.SIGKILL)
        broker.kill()
        broker.start()
        statuses = {name: sender.wait() for name, sender in senders.items()}
        with broker.connect() as connection:
            channel = connection.channel()
            found = [json.loads(body)["order_id"] for _, _, body in messages(channel, QUEUE)]
        stored = {"loop": sum(order.startswith("LOOP") for order in found)}
        stored["producer"] = len(found) - stored["loop"]
        return [
            {
                "sender": name,
                "said_sent_before_the_crash": said_before[name],
                "said_sent_in_the_end": len(seen(sender, SENT)),
                "in_the_queue": stored[name],
                "status": statuses[name],
            }
            for name, sender in senders.items()
        ]


# Asynchronous against synchronous


@contextlib.contextmanager
def http_worker(work: float, port: int = 0) -> Iterator[Tuple[Script, int]]:
    """Start the HTTP server; give it and its port."""
    with Script(VARIANTS, "http", "--port", port, "--processing-time", work) as server:
        yield server, int(server.wait_for(r"Listening on (\d+)")[1])


def outcome(way: str, workers: List[Script], lanes: List[Lane], **measured: object) -> Result:
    """Count what became of the five orders."""
    done = [order for worker in workers for order, _ in seen(worker, DONE)]
    return {
        "way": way,
        **measured,
        "last_done_s": max(stop for label, _, stop in lanes[1][1] if label != FAILED),
        "lost": ORDERS - len(set(done)),
        "lanes": lanes,
    }


@until_hit
def five_by_http(work: float, outage: float = 0, again: bool = False) -> Result:
    """Send the five orders as direct calls; with an outage the worker is down in the middle of them."""
    with contextlib.ExitStack() as stack:
        server, port = stack.enter_context(http_worker(work))
        patience = ("--patience", 10 * outage, "--pause", outage / 5) if again else ()
        caller = stack.enter_context(Script(VARIANTS, "caller", "--port", port, *patience))
        servers, killed = [server], 0.0
        if outage:
            killed = kill_in_third(server, work)
            time.sleep(outage)
            servers.append(stack.enter_context(http_worker(work, port))[0])
        caller.wait_for("Done")
        origin = seen(caller, r"Calling (\S+)")[0][1]
        end = seen(caller, "(Done)")[0][1]
        failed = {arrival - origin for _, arrival in seen(caller, r"(Failed) ")}
        calls = [
            (FAILED if stop in failed else label, start, stop)
            for label, start, stop in spans(caller, origin, r"Calling (\S+)", r"(?:Answered|Failed) ([\w-]+)")
        ]
        lanes = [("caller", calls), ("worker", spans_of_both(servers, origin, killed))]
        errors = len({order for order, _ in seen(caller, r"Failed ([\w-]+)")})
        return outcome(
            "direct calls, called again until answered" if again else "direct calls",
            servers,
            lanes,
            caller_held=f"{end - origin:.3f} s",
            caller_process_s=end - caller.started,
            callers_with_an_error=errors,
        )


@until_hit
def five_by_queue(broker: Broker, work: float, outage: float = 0) -> Result:
    """Send the same five orders over the queue."""
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(queue(broker))
        workers = [stack.enter_context(consumer(broker, "--processing-time", work))]
        subscribed(channel, 1)
        sender, killed = stack.enter_context(producer(broker)), 0.0
        if outage:
            killed = kill_in_third(workers[0], work)
            time.sleep(outage)
            workers.append(stack.enter_context(consumer(broker, "--processing-time", work)))
        all_done(workers, ORDERS)
        errors = 0 if sender.wait() == 0 else ORDERS
        origin = first_publish(sender)
        took, end = seen(sender, STORED)[0]
        lanes = [
            ("producer.py", [("", 0.0, end - origin)]),
            ("consumer.py", spans_of_both(workers, origin, killed)),
        ]
        return outcome(
            "queue",
            workers,
            lanes,
            caller_held=f"{took} s",  # in as many digits as it says
            caller_process_s=end - sender.started,
            callers_with_an_error=errors,
        )


def percentiles(waits: List[float]) -> Result:
    """Return the median and the 99th percentile in milliseconds."""
    ordered = sorted(waits)
    at_99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return {"median_ms": statistics.median(ordered) * 1000, "p99_ms": at_99 * 1000}


def all_at_once(count: int, job: Any) -> List[float]:
    """Run job(0), job(1), … in threads that start together; return how long each one waited."""
    barrier, waits = threading.Barrier(count), [math.nan] * count

    def caller(number: int) -> None:
        barrier.wait()
        begin = time.monotonic()
        job(number)
        waits[number] = time.monotonic() - begin

    threads = [threading.Thread(target=caller, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(map(math.isnan, waits)), "a call of the burst failed"
    return waits


def burst(broker: Broker, work: float, count: int) -> List[Result]:
    """Let so many callers send one order each, all at once, to two workers."""
    orders = [json.loads(line) for line in orders_text(count, "BURST").splitlines()]
    results = []
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(http_worker(work)) for _ in range(2)]
        begin = time.monotonic()
        waits = all_at_once(count, lambda number: call(servers[number % 2][1], orders[number]))
        all_done([server for server, _ in servers], count)
        last = max(arrival for server, _ in servers for _, arrival in seen(server, DONE))
        results.append({"way": "direct calls", **percentiles(waits), "last_done_s": last - begin})
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(queue(broker))
        workers = [stack.enter_context(consumer(broker, "--processing-time", work)) for _ in range(2)]
        subscribed(channel, 2)
        open_channel = stack.enter_context(broker.connect()).channel()
        open_channel.confirm_delivery()
        one_at_a_time = threading.Lock()

        def publish(number: int) -> None:
            body = json.dumps(orders[number]).encode()
            with one_at_a_time:  # the callers share one open connection, as a web application would
                open_channel.basic_publish("", QUEUE, body, pika.BasicProperties(delivery_mode=2), True)

        begin = time.monotonic()
        waits = all_at_once(count, publish)
        all_done(workers, count)
        last = max(arrival for worker in workers for _, arrival in seen(worker, DONE))
        results.append({"way": "queue", **percentiles(waits), "last_done_s": last - begin})
    return results


def one_order(broker: Broker, count: int) -> List[Result]:
    """Measure from the call to the end of an order that takes no work, one order after the other."""
    bodies = orders_text(count).splitlines()
    results = []
    with http_worker(0) as (_, port):
        waits = []
        for body in bodies:
            begin = time.monotonic()
            call(port, json.loads(body))
            waits.append(time.monotonic() - begin)
        results.append({"way": "direct call", **percentiles(waits)})
    with queue(broker) as channel, consumer(broker, "--processing-time", 0) as worker:
        subscribed(channel, 1)
        channel.confirm_delivery()
        waits = []
        for number, body in enumerate(bodies, 1):
            begin = time.monotonic()
            channel.basic_publish("", QUEUE, body, pika.BasicProperties(delivery_mode=2), True)
            all_done([worker], number)
            waits.append(seen(worker, DONE)[-1][1] - begin)
        results.append({"way": "queue", **percentiles(waits)})
    return results


def memory(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(pid)])) / 1024


def to_operate(broker: Broker, boot: float) -> Result:
    """Measure what there is to run besides the two programs themselves."""
    with http_worker(0) as (server, _):
        http_memory = memory(server.process.pid)
    assert broker.process
    return {"broker_boot_s": boot, "broker_mb": memory(broker.process.pid), "http_worker_mb": http_memory}


# All of them


def measure(broker: Broker, work: float, groups: List[str], boot: float) -> Result:
    """Run the experiments of the groups; `work` is how long an order takes, in seconds."""
    short = max(work / 4, 0.2)  # where only counts matter; a signal has to hit half of it
    results: Result = {
        "work_s": work,
        "python": platform.python_version(),
        "pika": pika.__version__,
        "cores": os.cpu_count(),
    }
    with broker.connect() as connection:
        results["rabbitmq"] = connection._impl.server_properties["version"]
    if "time" in groups:
        results["time"] = []
        for count in (1, 2, 3, 5):
            progress(f"time for five orders: {plural(count, 'consumer')}")
            results["time"].append(time_for_five(broker, count, work))
        results["prefetch"] = []
        for limit in (True, False):
            progress(f"a slow and a fast consumer: prefetch {1 if limit else 'without a limit'}")
            results["prefetch"].append(slow_and_fast(broker, limit, work))
    if "delivery" in groups:
        results["crash"] = []
        for mid_work in (True, False):
            for mode in MODES:
                progress(f"consumer crash {'in mid-work' if mid_work else 'after the work'}: ack {mode}")
                results["crash"].append(crash(broker, mode, mid_work, short))
        progress("restart of the broker: durable and transient")
        results["restart"] = restart(broker)
        progress("crash of the broker: with and without confirmation")
        results["confirmation"] = crash_of_the_broker(broker)
    if "calls" in groups:
        outage = max(2.5 * work, 1)  # long enough for two calls to fail in it
        progress("five orders by direct calls, and over the queue")
        results["calls"] = [five_by_http(work), five_by_queue(broker, work)]
        progress(f"the same, the worker down for {outage:g} s in the middle")
        results["outage_s"] = outage
        results["outage"] = [
            five_by_http(work, outage),
            five_by_http(work, outage, again=True),
            five_by_queue(broker, work, outage),
        ]
        results["burst_work_s"], results["burst_orders"] = max(work / 20, 0.02), 200
        progress("a burst of 200 orders on two workers")
        results["burst"] = burst(broker, results["burst_work_s"], results["burst_orders"])
        progress("a single order without work")
        results["one_order"] = one_order(broker, 50)
        results["to_operate"] = to_operate(broker, boot)
    return results


def plural(count: int, noun: str) -> str:
    """Return such as "1 order" and "2 orders"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def limit_text(result: Result) -> str:
    """Return the prefetch limit in words."""
    return f"prefetch_count={result['prefetch']}" if result["prefetch"] else "no limit"


def table(head: List[str], rows: List[List[object]]) -> str:
    """Return a Markdown table, its columns aligned for whoever reads it as text."""
    cells = [head, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(head))]
    lines = ["| " + " | ".join(f"{cell:{width}}" for cell, width in zip(row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def pictures(results: Result) -> Dict[str, Tuple[str, List[Timeline]]]:
    """Return the name of each picture, its title and what it shows."""
    found: Dict[str, Tuple[str, List[Timeline]]] = {}
    if "time" in results:
        found["consumers"] = (
            "Who had which of five orders, from the first publish on",
            [
                (f"{plural(r['consumers'], 'consumer')}: {r['measured_s']:.3f} s", r["lanes"])
                for r in results["time"]
            ],
        )
        found["prefetch"] = (
            "Ten orders on a slow and a fast consumer",
            [(f"{limit_text(r)}: {r['measured_s']:.3f} s", r["lanes"]) for r in results["prefetch"]],
        )
    if "calls" in results:
        found["calls"] = (
            "Five orders by direct calls and over the queue",
            [(f"{r['way']}: caller held for {r['caller_held']}", r["lanes"]) for r in results["calls"]],
        )
        found["outage"] = (
            f"The same, the worker down for {results['outage_s']:g} s in the middle",
            [
                (
                    f"{r['way']}: {plural(r['lost'], 'order')} lost, done at {r['last_done_s']:.3f} s",
                    r["lanes"],
                )
                for r in results["outage"]
            ],
        )
    return found


def drawn(results: Result, name: str) -> str:
    """Return a timeline as a Markdown code block."""
    return f"```text\n{in_blocks(pictures(results)[name][1])}\n```"


def markdown(results: Result) -> str:
    """Return the results as the README shows them."""
    parts = [
        f"Measured with RabbitMQ {results['rabbitmq']}, pika {results['pika']}, Python {results['python']},"
        f" {results['cores']} cores; an order takes {results['work_s']:g} s of work unless it says otherwise."
    ]
    if "time" in results:
        parts += [
            "### Time for five orders",
            table(
                ["consumers", "orders each", "theory: ceil(5/n) x work", "measured", "overhead"],
                [
                    [
                        r["consumers"],
                        " + ".join(map(str, r["orders_each"])),
                        f"{r['rounds']} x {results['work_s']:g} s = {r['theory_s']:g} s",
                        f"{r['measured_s']:.3f} s",
                        f"{r['overhead_ms']:.0f} ms",
                    ]
                    for r in results["time"]
                ],
            ),
            "From the first publish to the last acknowledgement,"
            f" ±{results['time'][0]['precision_ms']:g} ms: as exact as the time that `producer.py` prints.",
            drawn(results, "consumers"),
            "Ten orders on a slow and a fast consumer ({slow:g} s and {fast:g} s an order):".format(
                **results["prefetch"][0]["work_s"]
            ),
            table(
                ["prefetch_count", "orders of the slow one", "orders of the fast one", "all done after"],
                [
                    [
                        r["prefetch"] or "no limit",
                        r["orders_each"]["slow"],
                        r["orders_each"]["fast"],
                        f"{r['measured_s']:.3f} s",
                    ]
                    for r in results["prefetch"]
                ],
            ),
            drawn(results, "prefetch"),
        ]
    if "crash" in results:
        counts = {
            "processed": "processed",
            "lost": "lost",
            "twice": "processed twice",
            "begun_twice": "begun twice",
            "left_in_queue": "left in the queue",
        }
        parts += [
            "### Delivery",
            "A consumer dies (SIGKILL) at the third of five orders, another one then does what is left:",
            table(
                ["acknowledgement", "crash", *counts.values()],
                [[MODES[r["acknowledgement"]], r["crash"], *map(r.get, counts)] for r in results["crash"]],
            ),
            "Five confirmed messages, then a restart of the broker in good order:",
            table(
                ["queue", "messages", "after the restart"],
                [
                    [
                        f"{r['type']}, {'durable' if r['durable'] else 'transient'}",
                        "persistent" if r["persistent"] else "transient",
                        "refused" if r["before"] is None else f"{r['after']} of {r['before']}",
                    ]
                    for r in results["restart"]
                ],
            ),
            "A broker that hangs (SIGSTOP) while five orders are sent, dies (SIGKILL) and comes back:",
            table(
                ["sender", "said to be sent at the crash", "in the end", "in the queue", "exit status"],
                [
                    [
                        {"loop": "loop without confirmation", "producer": "`producer.py`"}[r["sender"]],
                        r["said_sent_before_the_crash"],
                        r["said_sent_in_the_end"],
                        r["in_the_queue"],
                        r["status"],
                    ]
                    for r in results["confirmation"]
                ],
            ),
        ]
    if "calls" in results:
        waits = ["median_ms", "p99_ms"]
        needed = [
            "nothing (the worker itself: {http_worker_mb:.0f} MB)".format(**results["to_operate"]),
            "a broker: {broker_mb:.0f} MB, up after {broker_boot_s:.1f} s".format(**results["to_operate"]),
        ]
        held = ["way", "caller held", "its whole process", "last order done", "callers with an error", "lost"]

        def rows(name: str) -> List[List[object]]:
            return [
                [r["way"], r["caller_held"]]
                + [f"{r[key]:.3f} s" for key in ("caller_process_s", "last_done_s")]
                + [r["callers_with_an_error"], r["lost"]]
                for r in results[name]
            ]

        parts += [
            "### Asynchronous against synchronous",
            "Five orders, one worker:",
            table(held, rows("calls")),
            drawn(results, "calls"),
            f"The same, the worker killed in its third order, a new one {results['outage_s']:g} s later:",
            table(held, rows("outage")),
            drawn(results, "outage"),
            f"A burst of {results['burst_orders']} orders, each from a caller of its own, on two workers,"
            f" {results['burst_work_s']:g} s of work each:",
            table(
                ["way", "caller's wait, median", "99th percentile", "last order done"],
                [
                    [r["way"], *(f"{r[key]:.0f} ms" for key in waits), f"{r['last_done_s']:.3f} s"]
                    for r in results["burst"]
                ],
            ),
            "A single order without work, from the call until it is done; and what there is to run for it:",
            table(
                ["way", "median", "99th percentile", "besides the two programs"],
                [
                    [r["way"], *(f"{r[key]:.2f} ms" for key in waits), needs]
                    for r, needs in zip(results["one_order"], needed)
                ],
            ),
        ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument("--work", type=float, default=2, metavar="SECONDS", help="an order takes; default: 2")
    groups = ["time", "delivery", "calls"]
    parser.add_argument("--only", choices=groups, action="append", help="run these groups alone")
    here = ROOT / "tests"
    parser.add_argument("--pictures", type=Path, default=here, metavar="FOLDER", help="default: tests")
    run = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="orders-experiments-") as folder:
        progress("starting a broker")
        broker = Broker(Path(folder))
        begin = time.monotonic()
        try:
            broker.start()
            results = measure(broker, run.work, run.only or groups, time.monotonic() - begin)
        finally:
            broker.stop()
    results["took_s"] = time.monotonic() - started
    for name, (title, shown) in pictures(results).items():
        (run.pictures / f"timeline-{name}.svg").write_text(in_svg(title, shown), encoding="utf-8")
    print(json.dumps(results, indent=2) if run.json else markdown(results))
    progress("done")


if __name__ == "__main__":
    main()
