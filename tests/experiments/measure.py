"""Measure what the README's analysis says.

Starts a RabbitMQ node of its own and lets consumer.py and producer.py work on it,
beside variants that nobody should use (variants.py). Prints README.md of this folder.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pika
import psutil

from experiments.report import FOLDER, Result, markdown, pictures
from experiments.timelines import NO_WORKER, Lane, Span
from experiments.variants import PERSISTENT, call
from rig.broker import LIMIT, Broker, free_ports, let_new_queues_settle, wait_until
from rig.orders import consumers, line, messages, names, orders_text, put, ready
from rig.programs import own_broker, progress, run, versions
from rig.scripts import ROOT, Script, consumer, producer

ORDERS = 5  # what producer.py publishes when it is given no file
PROCESSED = r"Processed (\w+-\d+)"
SENT = r"(?:Sent|Stored|Answered) (\w+-\d+)"  # what its sender takes for settled

Worker = Callable[[], Script]  # starts one


def variant(role: str, url: str | None = None, **options: object) -> Script:
    """Start one of variants.py."""
    return Script("-m", "experiments.variants", role, json.dumps(options), url=url)


def start(stack: contextlib.ExitStack, worker: Script) -> Script:
    """Wait until a worker is ready for orders; the stack will end it."""
    stack.enter_context(worker).wait_for("Waiting for orders")
    return worker


@contextlib.contextmanager
def empty_queue(broker: Broker) -> Iterator[Any]:
    """Give a channel, the queues declared as the scripts do and empty."""
    with broker.connect() as connection:
        channel = connection.channel()
        put(channel)  # nothing: it declares the queues
        channel.queue_purge("orders")
        yield channel


def all_processed(workers: list[Script], count: int) -> None:
    """Wait until the workers together have processed so many orders."""
    wait_until(
        lambda: sum(len(worker.seen(PROCESSED)) for worker in workers) >= count, f"{count} orders processed"
    )


def spans(script: Script, origin: float, killed: float = math.nan) -> list[Span]:
    """Return which order it worked on, or called for, from when to when.

    In seconds after the origin; `killed` is when it died, with an order in hand.
    """
    begins = script.seen(r"(?:Received|Calling) \w+-(\d+)")
    ends = [*script.seen("(Processed|Answered|Failed) "), ("Killed", killed)]
    return [
        (f"{int(number)}{' x' if how in ('Failed', 'Killed') else ''}", begin - origin, end - origin)
        for (number, begin), (how, end) in zip(begins, ends, strict=False)
    ]


def last_end(lanes: list[Lane]) -> float:
    """Return when the last of the orders was processed, in seconds."""
    return max(end for _, lane in lanes for label, _, end in lane if label.isdigit())


# Time for five orders


def shared(broker: Broker, workers: dict[str, Worker], orders: bytes = b"") -> Result:
    """Let workers share the orders, by default the samples: who has which, and when?"""
    with contextlib.ExitStack() as stack:
        stack.enter_context(empty_queue(broker))
        # One by one, so that the first of them is the first in RabbitMQ's round.
        scripts = [start(stack, worker()) for worker in workers.values()]
        file = ["-"] if orders else []
        stack.enter_context(producer(broker, *file, stdin=orders))
        all_processed(scripts, orders.count(b"\n") or ORDERS)
    origin = min(at for script in scripts for _, at in script.seen("(Received)"))
    lanes = [(name, spans(script, origin)) for name, script in zip(workers, scripts, strict=True)]
    return {
        "orders_each": [len(lane) for _, lane in lanes],
        "measured_s": last_end(lanes),  # since the first order was received
        "lanes": lanes,
    }


def time_for_five(broker: Broker, count: int, work: float) -> Result:
    """Let so many consumers work off the five sample orders."""
    one = partial(consumer, broker, work)
    result = shared(broker, {f"consumer {n + 1}": one for n in range(count)})
    return {
        "consumers": count,
        "theory_s": math.ceil(ORDERS / count) * work,
        "workers": "1 consumer" if count == 1 else f"{count} consumers",
        "each": ", ".join(map(str, result["orders_each"])),
        **result,
    }


def slow_and_fast(broker: Broker, limit: int | None, work: float) -> Result:
    """Let a slow and a fast consumer share ten orders, with prefetch_count=1 or not."""

    def worker(seconds: float) -> Script:
        if limit:
            return consumer(broker, seconds)
        return variant("worker", broker.url(), ack="after", seconds=seconds)

    workers: dict[str, Worker] = {
        f"{name}: {seconds:g} s an order": partial(worker, seconds)
        for name, seconds in (("slow", work), ("fast", work / 10))
    }
    result = shared(broker, workers, orders_text(names("ORD", 10)))
    slow, fast = result["orders_each"]
    return {
        **result,
        "limit": limit or "no limit",
        "words": f"prefetch_count={limit}" if limit else "no limit",
        "orders_each": {"slow": slow, "fast": fast},
    }


# Delivery

MODES = {  # when the consumer acknowledges
    "after": "`basic_ack` after the work (`consumer.py`)",
    "auto": "automatic (`auto_ack=True`)",
    "before": "`basic_ack` before the work",
    "never": "`basic_ack` forgotten, no prefetch limit",
}


def crash(broker: Broker, mode: str, moment: str, work: float) -> Result:
    """Let a consumer die at its third of five orders, and a second one go on; count.

    In mid-work half of the work on the third order is done. After the work all of it
    is, and nothing has been sent to RabbitMQ since.
    """
    worker = partial(variant, "worker", broker.url(), ack=mode, seconds=work)
    if mode == "after":
        worker = partial(variant, "consumer", broker.url(), seconds=work)
    with empty_queue(broker) as channel:

        def nobody_is_there() -> None:
            wait_until(lambda: consumers(channel) == 0, "RabbitMQ to see it dead")

        with producer(broker) as sender:
            assert sender.wait() == 0, sender
        orders = [order for order, _ in sender.seen(SENT)]
        with worker(crash=2.5 if moment == "in mid-work" else 3) as first:
            first.wait()
        nobody_is_there()
        returned = ready(channel)
        with worker() as second:
            second.wait_for("Waiting for orders")
            all_processed([second], returned)
        nobody_is_there()
        left = ready(channel)
    worked = first.seen(r"Worked (.+)") + second.seen(r"Worked (.+)")
    done = [order for order, _ in worked]
    return {
        "acknowledgement": mode,
        "mode": MODES[mode],
        "crash": moment,
        "processed": len(set(done)),
        "lost": len(set(orders) - set(done)),
        "twice": sum(done.count(order) > 1 for order in orders),
        "left_in_queue": left,
    }


RESTART = [  # a queue's type, whether it is durable, and its messages persistent
    ("classic", True, True),
    ("classic", True, False),
    ("classic", False, True),
    ("classic", False, False),
    ("quorum", True, True),
    ("quorum", True, False),
]


def fill(broker: Broker, kind: str, durable: bool, persistent: bool) -> int | None:
    """Put five confirmed messages into a new queue; return how many wait there.

    None: RabbitMQ refuses transient queues, as 4.3 does.
    """
    queue = str((kind, durable, persistent))
    properties = pika.BasicProperties(delivery_mode=2 if persistent else 1)
    with broker.connect() as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        arguments = {"x-queue-type": kind}
        try:
            channel.queue_declare(queue, durable=durable, arguments=arguments)
        except pika.exceptions.AMQPError:
            return None
        for _ in range(ORDERS):
            channel.basic_publish("", queue, b"", properties, mandatory=True)
        return ready(channel, queue)


def left_in(broker: Broker, queue: str) -> int:
    """Take the messages out of a queue and count them; 0 if it is gone."""
    gone = contextlib.suppress(pika.exceptions.ChannelClosedByBroker)
    with broker.connect() as connection, gone:
        return len(list(messages(connection.channel(), queue)))
    return 0


def restart(broker: Broker) -> list[Result]:
    """Fill a queue of each kind, restart the node in good order, and count."""
    results: list[Result] = [
        {
            "type": kind,
            "durable": durable,
            "persistent": persistent,
            "queue": f"{kind}, {'durable' if durable else 'transient'}",
            "before": fill(broker, kind, durable, persistent),
        }
        for kind, durable, persistent in RESTART
    ]
    broker.stop()
    broker.start()
    for queue, result in zip(RESTART, results, strict=True):
        refused = result["before"] is None
        result["after"] = None if refused else left_in(broker, str(queue))
        result["outcome"] = "refused" if refused else result["after"]
    return results


def crash_of_the_broker(broker: Broker) -> list[Result]:
    """Let two senders send to a broker that hangs, then dies: what do they say?"""
    with empty_queue(broker):
        let_new_queues_settle()
    with contextlib.ExitStack() as stack:
        loop, stored = (stack.enter_context(variant(role, broker.url())) for role in ("loop", "producer"))
        loop.wait_for("Connected")
        stored.wait_for("Connected")
        assert broker.process
        os.kill(broker.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, broker.process.pid, os.WSTOPPED)  # until each of its threads hangs
        loop.signal(signal.SIGUSR1)
        stored.signal(signal.SIGUSR1)
        wait_until(lambda: len(loop.seen(SENT)) == ORDERS, "the loop to send")
        time.sleep(0.5)  # producer.py would have said so too by now
        said = {sender: len(sender.seen(SENT)) for sender in (loop, stored)}
        broker.kill()
        broker.start()
        statuses = {sender: sender.wait() for sender in said}
    with broker.connect() as connection:
        bodies = [body for *_, body in messages(connection.channel())]
    return [
        {
            "sender": name,
            "who": who,
            "says": says,
            "said_before_the_crash": said[sender],
            "said_in_the_end": len(sender.seen(SENT)),
            "in_the_queue": sum(prefix in body for body in bodies),
            "status": statuses[sender],
        }
        for name, who, says, prefix, sender in (
            ("loop", "loop without confirmation", "Sent", b"LOOP-", loop),
            ("producer", "`producer.py`", "Stored", b"ORD-", stored),
        )
    ]


# Direct calls and the queue


def end_of(script: Script) -> float:
    """Wait for the end of a process; return when it was (time.monotonic())."""
    script.process.wait()  # given a time limit, it would look every 50 ms only
    return time.monotonic()


def five(way: str, worker: Callable[..., Script], caller: Worker, outage: float = 0) -> Result:
    """Have the five sample orders worked off by one worker.

    With an outage the worker dies in its third order, and another one comes so many
    seconds later. All times are since the start of the caller's process.
    """
    with ThreadPoolExecutor() as pool, contextlib.ExitStack() as stack:
        workers = [start(stack, worker(crash=2.5 if outage else math.inf))]
        sender = stack.enter_context(caller())
        origin, killed = sender.started, math.nan
        end = pool.submit(end_of, sender)
        if outage:
            killed = end_of(workers[0])
            time.sleep(outage)
            workers.append(start(stack, worker()))
        held = end.result() - origin
        assert sender.wait() == 0, sender
        all_processed(workers, len(sender.seen(SENT)))
    work = [span for script in workers for span in spans(script, origin, killed)]
    processed = [label for label, *_ in work if label.isdigit()]
    lost = [label for label in "12345" if label not in processed]
    last = last_end([("worker", work)])
    calls = spans(sender, origin) or [(f"{held:.2f} s, then free", 0, held)]
    if outage:
        work.append((NO_WORKER, killed - origin, killed - origin + outage))
    if lost:
        calls.append((f"{', '.join(lost)} lost", held, held))
    times = f"caller held {held:.2f} s, all done at {last:.2f} s"
    return {
        "way": way,
        "caller_process_s": held,
        "last_done_s": last,
        "callers_with_an_error": len(dict(sender.seen(r"Failed (\S+)"))),
        "lost": len(lost),
        "outcome": f"{len(lost)} of 5 lost" if lost else f"none lost, {times}",
        "lanes": [("caller", calls), ("worker", work)],
    }


def both_ways(
    stack: contextlib.ExitStack, broker: Broker, count: int, work: float
) -> list[tuple[str, list[Script], Callable[[int], None]]]:
    """Start so many workers of each way; give them, and what sends them order n."""
    ports = free_ports(count)
    servers = [start(stack, variant("http", port=port, seconds=work)) for port in ports]
    # The callers share one open connection, as those in a web application would.
    channel = stack.enter_context(empty_queue(broker))
    channel.confirm_delivery()
    one_at_a_time = threading.Lock()
    workers = [start(stack, consumer(broker, work)) for _ in ports]

    def to_a_server(n: int) -> None:
        call(ports[n % count], line(f"ORD-{n}"))

    def to_the_queue(n: int) -> None:
        with one_at_a_time:
            body = line(f"ORD-{n}")
            channel.basic_publish("", "orders", body, PERSISTENT, mandatory=True)

    return [("direct calls", servers, to_a_server), ("queue", workers, to_the_queue)]


def burst(broker: Broker, work: float, count: int) -> list[Result]:
    """Let so many callers send one order each, all at once, to two workers."""
    barrier = threading.Barrier(count, timeout=LIMIT)

    def wait_of_caller(send: Callable[[int], None], n: int) -> float:
        barrier.wait()
        begin = time.monotonic()
        send(n)
        return time.monotonic() - begin

    results = []
    with contextlib.ExitStack() as stack:
        for way, workers, send in both_ways(stack, broker, 2, work):
            begin = time.monotonic()
            with ThreadPoolExecutor(count) as pool:
                waits = list(pool.map(partial(wait_of_caller, send), range(count)))
            all_processed(workers, count)
            last = max(at for script in workers for _, at in script.seen(PROCESSED))
            ms = statistics.median(waits) * 1000
            results.append({"way": way, "median_ms": ms, "last_done_s": last - begin})
    return results


def one_order(broker: Broker, count: int) -> list[Result]:
    """Measure from the call to the end of an order without work, one by one."""
    assert broker.process
    results = []
    with contextlib.ExitStack() as stack:
        for way, workers, send in both_ways(stack, broker, 1, 0):
            waits = []
            for n in range(count):
                begin = time.monotonic()
                send(n)
                all_processed(workers, n + 1)
                waits.append(workers[0].seen(PROCESSED)[n][1] - begin)
            of, process = "worker", workers[0].process
            if way == "queue":
                of, process = "RabbitMQ", broker.process
            mb = psutil.Process(process.pid).memory_info().rss / 2**20
            ms = statistics.median(waits) * 1000
            results.append({"way": way, "median_ms": ms, "memory_mb": mb, "of": of})
    return results


# All of them


def measure_time(broker: Broker, work: float) -> Result:
    """Measure how long five orders take, and what prefetch_count is for."""
    progress("time for five orders")
    five_orders = [time_for_five(broker, count, work) for count in (1, 2, 3, 5)]
    progress("a slow and a fast consumer")
    both = [slow_and_fast(broker, limit, work) for limit in (1, None)]
    return {"time": five_orders, "prefetch": both}


def measure_delivery(broker: Broker, work: float) -> Result:
    """Count what is lost and what comes twice in crashes and restarts."""
    progress("a consumer crashes")
    mid, after = (  # with less work, as only counts matter
        [crash(broker, mode, moment, work / 4) for mode in MODES]
        for moment in ("in mid-work", "after the work")
    )
    progress("RabbitMQ restarts, and dies while orders are sent")
    restarts = restart(broker)
    return {
        "crash": mid + after,
        "crashes": [{"mid": a, "after": b} for a, b in zip(mid, after, strict=True)],
        "restart": restarts,
        "restarts": [
            {"persistent": a, "transient": b} for a, b in zip(restarts[::2], restarts[1::2], strict=True)
        ],
        "confirmation": crash_of_the_broker(broker),
    }


def measure_calls(broker: Broker, work: float) -> Result:
    """Measure direct calls beside the queue."""
    outage = max(2.5 * work, 1)  # seconds; long enough for two calls to fail in it
    pause, burst_work = outage / 5, max(work / 20, 0.02)
    port = free_ports(1)[0]
    server = partial(variant, "http", port=port, seconds=work)
    caller = partial(variant, "caller", port=port)
    again = partial(caller, patience=10 * outage, pause=pause)
    worker = partial(variant, "consumer", broker.url(), seconds=work)
    sender = partial(producer, broker)
    progress("five orders by direct calls, and over the queue")
    with empty_queue(broker):
        calls = [five("direct calls", server, caller), five("queue", worker, sender)]
        down = [
            five("direct calls", server, caller, outage),
            five("direct calls, called again until answered", server, again, outage),
            five("queue", worker, sender, outage),
        ]
    progress("200 callers at once, and one order without work")
    return {
        "calls": calls,
        "outage": down,
        "outage_s": outage,
        "pause_s": pause,
        "burst": burst(broker, burst_work, 200),
        "burst_work_s": burst_work,
        "one_order": one_order(broker, 50),
    }


GROUPS = {"time": measure_time, "delivery": measure_delivery, "calls": measure_calls}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser("tests/run experiments", description=__doc__)
    add = parser.add_argument
    add("--json", action="store_true", help="print the figures alone, as JSON")
    add("--work", type=float, default=2, help="the seconds of an order, by default 2")
    add("--only", choices=GROUPS, action="append", help="measure this group alone")
    default = ROOT / ".venv" / "pictures"
    add("--pictures", type=Path, default=default, help="the folder for them")
    add("--renew", action="store_true", help="write README.md and its pictures anew")
    options = parser.parse_args(arguments)
    if options.renew and options.only:
        parser.error("--renew needs all groups")
    return options


def main() -> None:
    """Measure, draw and print."""
    options = parse_arguments()
    progress("starting RabbitMQ")
    with own_broker("experiments") as (broker, _):
        results: Result = {"work_s": options.work, "versions": versions(broker)}
        for group in options.only or GROUPS:
            results.update(GROUPS[group](broker, options.work))
    folder = FOLDER / "pictures" if options.renew else options.pictures
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures(results).items():
        (folder / f"{name}.svg").write_text(picture, encoding="utf-8")
    if options.renew:
        readme = f"{markdown(results)}\n"
        (FOLDER / "README.md").write_text(readme, encoding="utf-8")
    print(json.dumps(results, indent=2) if options.json else markdown(results))
    progress(f"done; the pictures are in {folder}")


if __name__ == "__main__":
    run(main)
