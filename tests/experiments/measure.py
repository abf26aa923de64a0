"""The README's three answers, measured.

Time for five orders, delivery, asynchronous against synchronous: starts a RabbitMQ node
of its own, lets the real consumer.py and producer.py work on it, beside variants of
them that nobody should use (variants.py), and prints in Markdown what it measured.
"""

import argparse
import contextlib
import functools
import json
import math
import os
import platform
import signal
import statistics
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pika

from experiments.report import markdown, pictures
from experiments.timelines import FAILED, Interval, Lane, in_svg
from experiments.variants import PERSISTENT, QUEUES, call
from rig.broker import Broker, wait_until
from rig.measuring import (
    DONE,
    RECEIVED,
    elapsed,
    memory,
    plural,
    progress,
    seen,
    server_version,
)
from rig.orders import an_order, messages, names, orders_text, ready
from rig.programs import own_broker, run
from rig.scripts import ROOT, TESTS, Script, consumer, producer

QUEUE = "orders"
ORDERS = 5  # what producer.py publishes when it is given no file
SENT = r"(?:Sent|Stored) (\w+-\d+)"
ALL_STORED = r"orders stored in ([\d.]+) s"
README_PICTURES = TESTS / "experiments" / "pictures"
OWN_PICTURES = ROOT / ".venv" / "pictures"  # which git ignores

Result = Dict[str, Any]


def variant(*arguments: object, url: Optional[str] = None) -> Script:
    """Start one of the variants."""
    path = str(TESTS)
    return Script("-m", "experiments.variants", *arguments, url=url, PYTHONPATH=path)


def spans(
    script: Script, origin: float, begin: str = RECEIVED, end: str = DONE
) -> List[Interval]:
    """Return which order the script had from when to when, those that it ended."""
    ends = seen(script, end)
    return [
        (str(int(order.split("-")[1])), start - origin, stop - origin)
        for (order, start), (_, stop) in zip(seen(script, begin), ends)
    ]


def spans_of_both(
    workers: List[Script], origin: float, killed: float
) -> List[Interval]:
    """Return the same of a worker, killed in its third order, and of its successor."""
    first, *second = [spans(worker, origin) for worker in workers]
    cut_off = []
    if killed:
        third = seen(workers[0], RECEIVED)[2][1]
        cut_off = [(FAILED, third - origin, killed - origin)]
    return [*first, *cut_off, *(span for later in second for span in later)]


def publishing(sender: Script) -> Tuple[float, str]:
    """Return when producer.py published its first order, and the seconds it took.

    It says itself how long, up to the last confirmation, of which its last line on a
    single order tells. So the moment is as exact as the seconds.
    """
    sender.wait_for(ALL_STORED)
    took = seen(sender, ALL_STORED)[0][0]
    return seen(sender, SENT)[-1][1] - float(took), took


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
    wait_until(
        lambda: sum(len(seen(s, DONE)) for s in scripts) >= count,
        f"{count} orders done",
        limit,
    )


class MissedError(Exception):
    """A signal came too late to hit what it was meant to hit."""


def until_hit(experiment: Callable[..., Result]) -> Callable[..., Result]:
    """Have the experiment repeated if its signal missed, as on a busy machine."""

    @functools.wraps(experiment)
    def repeated(*arguments: Any, **options: Any) -> Result:
        for _ in range(9):
            with contextlib.suppress(MissedError):
                return experiment(*arguments, **options)
        return experiment(*arguments, **options)

    return repeated


def kill_in_third(worker: Script, work: float) -> float:
    """SIGKILL the worker in the middle of its third order; return when that was."""
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
        workers: List[Script] = []
        while len(workers) < count:
            worker = consumer(broker, "--processing-time", work)
            workers.append(stack.enter_context(worker))
            # One by one, so that consumer 1 is the first in the queue's round.
            subscribed(channel, len(workers))
        sender = stack.enter_context(producer(broker))
        all_done(workers, ORDERS)
        origin, said = publishing(sender)
        decimals = len(said.partition(".")[2])
        lanes = [
            (f"consumer {n}", spans(worker, origin))
            for n, worker in enumerate(workers, 1)
        ]
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
    """Let a slow and a fast consumer share ten orders, with prefetch_count=1 or not."""
    options = [("slow", work), ("fast", work / 10)]
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(queue(broker))
        workers = []
        for number, (_, seconds) in enumerate(options, 1):
            settings = ("--processing-time", seconds)
            no_limit = ("worker", "--ack", "after", "--prefetch", 0)
            worker = (
                consumer(broker, *settings)
                if limit
                else variant(*no_limit, *settings, url=broker.url())
            )
            workers.append(stack.enter_context(worker))
            subscribed(channel, number)
        text = orders_text(names("ORD", orders)).encode()
        sender = stack.enter_context(producer(broker, "-", stdin=text))
        all_done(workers, orders)
        origin, _ = publishing(sender)
        lanes = [
            (name, spans(worker, origin)) for (name, _), worker in zip(options, workers)
        ]
    return {
        "prefetch": 1 if limit else None,
        "orders": orders,
        "work_s": dict(options),
        "orders_each": {name: len(lane) for name, lane in lanes},
        "measured_s": max(stop for _, lane in lanes for _, _, stop in lane),
        "lanes": lanes,
    }


# Delivery

# When the consumer acknowledges; report.py says it in words.
MODES = ("after", "auto", "before", "never")


def done_by(script: Script) -> List[str]:
    """Return the orders on which the script has done all of the work.

    Where the work itself says Worked, that counts: consumer.py says Processed after
    the acknowledgement.
    """
    worked = seen(script, r"Worked (\w+-\d+)") or seen(script, r"Processed (\w+-\d+)")
    return [order for order, _ in worked]


@until_hit
def crash(broker: Broker, mode: str, mid_work: bool, work: float) -> Result:
    """SIGKILL a consumer at its third of five orders, let a second one go on, count.

    Mid-work: half of the work on the third order is done. Else: that work is done, and
    nothing has been sent to the broker since.
    """
    seconds = ("--processing-time", work)
    prefetch = 0 if mode in ("auto", "never") else 1

    def start(die_after: int) -> Script:
        if mode == "after" and not die_after:
            return consumer(broker, *seconds)
        role = "consumer" if mode == "after" else "worker"
        settings = ("--ack", mode, "--prefetch", prefetch, "--die-after", die_after)
        return variant(role, *settings, *seconds, url=broker.url())

    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(queue(broker))
        with producer(broker) as sender:
            assert sender.wait() == 0, sender
            orders = [order for order, _ in seen(sender, SENT)]
        first = stack.enter_context(start(0 if mid_work else 3))
        if mid_work:
            kill_in_third(first, work)
        first.wait()
        # The broker has seen it die, and has taken its orders back:
        subscribed(channel, 0)
        returned = ready(channel)
        second = stack.enter_context(start(0))
        subscribed(channel, 1)
        wait_until(
            lambda: (
                ready(channel) == 0
                and len(seen(second, RECEIVED)) == len(done_by(second)) >= returned
            ),
            "the second consumer to do what is left",
        )
        second.signal(signal.SIGTERM)
        second.wait()
        subscribed(channel, 0)
        worked = done_by(first) + done_by(second)
        begun = [order for s in (first, second) for order, _ in seen(s, RECEIVED)]
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


RESTART = [  # a queue's name, type, durability, and the delivery mode of its messages
    ("durable-persistent", "classic", True, 2),
    ("durable-transient", "classic", True, 1),
    ("transient-persistent", "classic", False, 2),
    ("transient-transient", "classic", False, 1),
    ("quorum-persistent", "quorum", True, 2),
    ("quorum-transient", "quorum", True, 1),
]


def fill(
    broker: Broker, name: str, kind: str, durable: bool, delivery_mode: int
) -> Optional[int]:
    """Put five confirmed messages into a queue and return how many wait there.

    None: the broker refuses transient queues, as RabbitMQ 4.3 does.
    """
    arguments = {"x-queue-type": kind}
    properties = pika.BasicProperties(delivery_mode=delivery_mode)
    with broker.connect() as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        try:
            channel.queue_declare(name, durable=durable, arguments=arguments)
        except pika.exceptions.AMQPError:
            return None
        for number in range(ORDERS):
            body = str(number).encode()
            channel.basic_publish("", name, body, properties, mandatory=True)
        return ready(channel, name)


def empty(broker: Broker, name: str) -> int:
    """Delete a queue and return how many messages were in it; 0 if it is gone."""
    with broker.connect() as connection:
        channel = connection.channel()
        with contextlib.suppress(pika.exceptions.ChannelClosedByBroker):
            found = len(list(messages(channel, name)))
            channel.queue_delete(name)
            return found
    return 0


def restart(broker: Broker) -> List[Result]:
    """Fill a queue of each kind, restart the node in good order, and count."""
    results: List[Result] = [
        {
            "type": kind,
            "durable": durable,
            "persistent": delivery_mode == 2,
            "before": fill(broker, name, kind, durable, delivery_mode),
        }
        for name, kind, durable, delivery_mode in RESTART
    ]
    broker.stop()
    broker.start()
    for (name, *_), result in zip(RESTART, results):
        refused = result["before"] is None
        result["after"] = None if refused else empty(broker, name)
    return results


def crash_of_the_broker(broker: Broker) -> List[Result]:
    """Let two senders send to a broker that hangs, then dies: what do they tell?"""
    with contextlib.ExitStack() as stack:
        with queue(broker):
            # A quorum queue that is new needs a second until it outlives a SIGKILL.
            time.sleep(1.5)
        senders = {
            name: stack.enter_context(variant(name, url=broker.url()))
            for name in ("loop", "producer")
        }
        for sender in senders.values():
            sender.wait_for("Connected")
        assert broker.process
        os.kill(broker.process.pid, signal.SIGSTOP)
        try:
            for sender in senders.values():
                sender.signal(signal.SIGUSR1)
            wait_until(
                lambda: len(seen(senders["loop"], SENT)) == ORDERS, "the loop to send"
            )
            time.sleep(0.5)  # producer.py would have said so too by now
            said_before = {name: len(seen(s, SENT)) for name, s in senders.items()}
        finally:
            os.kill(broker.process.pid, signal.SIGKILL)
        broker.kill()
        broker.start()
        statuses = {name: sender.wait() for name, sender in senders.items()}
        with broker.connect() as connection:
            bodies = [body for _, _, body in messages(connection.channel(), QUEUE)]
        found = [json.loads(body)["order_id"] for body in bodies]
        stored = {"loop": sum(order.startswith("LOOP") for order in found)}
        stored["producer"] = len(found) - stored["loop"]
        return [
            {
                "sender": name,
                "says": "Sent" if name == "loop" else "Stored",
                "said_before_the_crash": said_before[name],
                "said_in_the_end": len(seen(sender, SENT)),
                "in_the_queue": stored[name],
                "status": statuses[name],
            }
            for name, sender in senders.items()
        ]


# Asynchronous against synchronous


@contextlib.contextmanager
def http_worker(work: float, port: int = 0) -> Iterator[Tuple[Script, int]]:
    """Start the HTTP server; give it and its port."""
    with variant("http", "--port", port, "--processing-time", work) as server:
        yield server, int(server.wait_for(r"Listening on (\d+)")[1])


def outcome(
    way: str, workers: List[Script], lanes: List[Lane], **measured: object
) -> Result:
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
    """Send the five orders as direct calls; `outage`: the seconds without a worker."""
    with contextlib.ExitStack() as stack:
        server, port = stack.enter_context(http_worker(work))
        patience = ("--patience", 10 * outage, "--pause", outage / 5) if again else ()
        caller = stack.enter_context(variant("caller", "--port", port, *patience))
        servers, killed = [server], 0.0
        if outage:
            killed = kill_in_third(server, work)
            time.sleep(outage)
            servers.append(stack.enter_context(http_worker(work, port))[0])
        caller.wait_for("Done")
        all_done(servers, len(seen(caller, "(Answered)")))  # all lines are read
        origin = seen(caller, r"Calling (\S+)")[0][1]
        end = seen(caller, "(Done)")[0][1]
        failed = {arrival - origin for _, arrival in seen(caller, r"(Failed) ")}
        calls = [
            (FAILED if stop in failed else label, start, stop)
            for label, start, stop in spans(
                caller, origin, r"Calling (\S+)", r"(?:Answered|Failed) ([\w-]+)"
            )
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

        def start() -> Script:
            worker = consumer(broker, "--processing-time", work)
            return stack.enter_context(worker)

        workers = [start()]
        subscribed(channel, 1)
        sender, killed = stack.enter_context(producer(broker)), 0.0
        if outage:
            killed = kill_in_third(workers[0], work)
            time.sleep(outage)
            workers.append(start())
        all_done(workers, ORDERS)
        errors = 0 if sender.wait() == 0 else ORDERS
        origin, took = publishing(sender)
        lanes = [
            ("producer.py", [("", 0.0, float(took))]),
            ("consumer.py", spans_of_both(workers, origin, killed)),
        ]
        return outcome(
            "queue",
            workers,
            lanes,
            caller_held=f"{took} s",  # in as many digits as it says
            caller_process_s=seen(sender, ALL_STORED)[0][1] - sender.started,
            callers_with_an_error=errors,
        )


def percentiles(waits: List[float]) -> Result:
    """Return the median and the 99th percentile in milliseconds."""
    ordered = sorted(waits)
    at_99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return {"median_ms": statistics.median(ordered) * 1000, "p99_ms": at_99 * 1000}


def all_at_once(count: int, job: Any) -> List[float]:
    """Run job(0), job(1), … in threads, at once; return how long each one took."""
    barrier, waits = threading.Barrier(count), [math.nan] * count

    def caller(number: int) -> None:
        barrier.wait()
        begin = time.monotonic()
        job(number)
        waits[number] = time.monotonic() - begin

    threads = [
        threading.Thread(target=caller, args=(number,), daemon=True)
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(map(math.isnan, waits)), "a call of the burst failed"
    return waits


def timed(way: str, waits: List[float], workers: List[Script], begin: float) -> Result:
    """Return how long the callers of a burst waited, and the last order took."""
    ends = [arrival for worker in workers for _, arrival in seen(worker, DONE)]
    return {"way": way, **percentiles(waits), "last_done_s": max(ends) - begin}


def burst(broker: Broker, work: float, count: int) -> List[Result]:
    """Let so many callers send one order each, all at once, to two workers."""
    orders = [an_order(name) for name in names("BURST", count)]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(http_worker(work)) for _ in range(2)]
        begin = time.monotonic()
        waits = all_at_once(count, lambda n: call(servers[n % 2][1], orders[n]))
        workers = [server for server, _ in servers]
        all_done(workers, count)
        direct = timed("direct calls", waits, workers, begin)
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(queue(broker))
        workers = [
            stack.enter_context(consumer(broker, "--processing-time", work))
            for _ in range(2)
        ]
        subscribed(channel, 2)
        # The callers share one open connection, as those in a web application would.
        open_channel = stack.enter_context(broker.connect()).channel()
        open_channel.confirm_delivery()
        one_at_a_time = threading.Lock()

        def publish(number: int) -> None:
            body = json.dumps(orders[number]).encode()
            with one_at_a_time:
                open_channel.basic_publish("", QUEUE, body, PERSISTENT, True)

        begin = time.monotonic()
        waits = all_at_once(count, publish)
        all_done(workers, count)
        return [direct, timed("queue", waits, workers, begin)]


def one_order(broker: Broker, count: int) -> List[Result]:
    """Measure from the call to the end of an order without work, one by one."""
    orders = [an_order(name) for name in names("ORD", count)]
    direct, queued = [], []
    with http_worker(0) as (_, port):
        for order in orders:
            begin = time.monotonic()
            call(port, order)
            direct.append(time.monotonic() - begin)
    with queue(broker) as channel, consumer(broker, "--processing-time", 0) as worker:
        subscribed(channel, 1)
        channel.confirm_delivery()
        for number, order in enumerate(orders, 1):
            begin = time.monotonic()
            body = json.dumps(order).encode()
            channel.basic_publish("", QUEUE, body, PERSISTENT, True)
            all_done([worker], number)
            queued.append(seen(worker, DONE)[-1][1] - begin)
    return [
        {"way": "direct call", **percentiles(direct)},
        {"way": "queue", **percentiles(queued)},
    ]


def to_operate(broker: Broker, boot: float) -> Result:
    """Measure what there is to run besides the two programs themselves."""
    assert broker.process
    with http_worker(0) as (server, _):
        return {
            "broker_boot_s": boot,
            "broker_mb": memory(broker.process.pid),
            "http_worker_mb": memory(server.process.pid),
        }


# All of them


def measure_time(broker: Broker, work: float, boot: float) -> Result:
    """Measure how long five orders take, and what prefetch_count is for."""
    results: Result = {"time": [], "prefetch": []}
    for count in (1, 2, 3, 5):
        progress(f"time for five orders: {plural(count, 'consumer')}")
        results["time"].append(time_for_five(broker, count, work))
    for limit in (True, False):
        words = "prefetch 1" if limit else "prefetch without a limit"
        progress(f"a slow and a fast consumer: {words}")
        results["prefetch"].append(slow_and_fast(broker, limit, work))
    return results


def measure_delivery(broker: Broker, work: float, boot: float) -> Result:
    """Count what is lost and what comes twice in crashes and restarts."""
    # Only counts matter here; but a signal has to hit half of the work.
    short = max(work / 4, 0.2)
    results: Result = {"crash": []}
    for mid_work in (True, False):
        for mode in MODES:
            when = "in mid-work" if mid_work else "after the work"
            progress(f"consumer crash {when}: ack {mode}")
            results["crash"].append(crash(broker, mode, mid_work, short))
    progress("restart of the broker: durable and transient")
    results["restart"] = restart(broker)
    progress("crash of the broker: with and without confirmation")
    results["confirmation"] = crash_of_the_broker(broker)
    return results


def measure_calls(broker: Broker, work: float, boot: float) -> Result:
    """Measure direct calls beside the queue."""
    outage = max(2.5 * work, 1)  # long enough for two calls to fail in it
    burst_work, burst_orders = max(work / 20, 0.02), 200
    results: Result = {
        "outage_s": outage,
        "burst_work_s": burst_work,
        "burst_orders": burst_orders,
    }
    progress("five orders by direct calls, and over the queue")
    results["calls"] = [five_by_http(work), five_by_queue(broker, work)]
    progress(f"the same, the worker down for {outage:g} s in the middle")
    results["outage"] = [
        five_by_http(work, outage),
        five_by_http(work, outage, again=True),
        five_by_queue(broker, work, outage),
    ]
    progress(f"a burst of {burst_orders} orders on two workers")
    results["burst"] = burst(broker, burst_work, burst_orders)
    progress("a single order without work")
    results["one_order"] = one_order(broker, 50)
    results["to_operate"] = to_operate(broker, boot)
    return results


GROUPS = {"time": measure_time, "delivery": measure_delivery, "calls": measure_calls}


def measure(work: float, groups: List[str]) -> Result:
    """Run the experiments of the groups; `work`: the seconds that an order takes."""
    progress("starting a broker")
    begin = time.monotonic()
    with own_broker("experiments") as (broker, _):
        boot = time.monotonic() - begin
        results: Result = {
            "work_s": work,
            "python": platform.python_version(),
            "pika": pika.__version__,
            "cores": os.cpu_count(),
            "rabbitmq": server_version(broker),
        }
        for group in groups:
            results.update(GROUPS[group](broker, work, boot))
    return {**results, "took_s": elapsed()}


def parse_arguments(arguments: Optional[List[str]] = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="tests/run experiments",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--json", action="store_true", help="print JSON instead of Markdown")
    add(
        "--work",
        type=float,
        default=2,
        metavar="SECONDS",
        help="an order takes; default: 2",
    )
    add("--only", choices=GROUPS, action="append", help="run these groups alone")
    add = parser.add_mutually_exclusive_group().add_argument
    add(
        "--pictures",
        type=Path,
        default=OWN_PICTURES,
        metavar="FOLDER",
        help="where to put the pictures; default: .venv/pictures",
    )
    add(
        "--renew-pictures",
        action="store_const",
        dest="pictures",
        const=README_PICTURES,
        help="replace the pictures that the README shows",
    )
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, draw and print."""
    options = parse_arguments()
    results = measure(options.work, options.only or list(GROUPS))
    options.pictures.mkdir(parents=True, exist_ok=True)
    for name, (title, shown) in pictures(results).items():
        picture = in_svg(title, shown)
        (options.pictures / f"{name}.svg").write_text(picture, encoding="utf-8")
        progress(f"drew {options.pictures / name}.svg")
    print(json.dumps(results, indent=2) if options.json else markdown(results))
    progress("done")


if __name__ == "__main__":
    run(main)
