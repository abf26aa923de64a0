"""Measure what README.md's analysis says, and print its three tables: tests/run measure"""

import contextlib
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pika

from rig.node import Node, clean_up_at_signals, free_port, running_node, wait_until
from rig.orders import SAMPLE_IDS, consumer_count, order_json, put, ready_count
from rig.processes import CHANGED, ROOT, Program, start_producer

RUNS, AWAY = 3, 5.0  # times, and seconds without a worker
BODIES = [order_json(order_id) for order_id in SAMPLE_IDS]
Row = list[str | int | float]  # a float is seconds


def start_consumer(node: Node, *mistake: str) -> Program:
    """Start a consumer, and wait until it consumes."""
    script = CHANGED / "consumer_that_loses.py" if mistake else ROOT / "consumer.py"
    consumer = Program(script, *mistake, amqp_url=node.url())
    consumer.wait_for("Waiting for orders")
    return consumer


def five_orders(node: Node, count: int) -> Row:
    """1. How long do five orders take? Let so many consumers share them."""
    with ExitStack() as stack, node.connect() as connection:
        channel = connection.channel()
        consumers = [stack.enter_context(start_consumer(node)) for _ in range(count)]
        wait_until(lambda: consumer_count(channel) == count, "all consume")
        put(channel, *BODIES)
        wait_until(lambda: sum(len(each.processed) for each in consumers) == 5, "five orders")
        for each in consumers:
            each.stop()
    begin = min(moment for each in consumers for moment in each.moments("Received"))
    end = max(moment for each in consumers for moment in each.moments("Processed"))
    return [count, end - begin]


def killed_consumer(node: Node, name: str, *mistake: str) -> Row:
    """2. What does basic_ack do? Kill a consumer amid the third order; another gets the rest."""
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue_delete("orders")
        put(channel, *BODIES)
        with start_consumer(node, *mistake) as first:
            first.wait_for("Received", times=3)
            time.sleep(1)
            first.kill()
        wait_until(lambda: consumer_count(channel) == 0, "RabbitMQ to see it dead")
        rest = ready_count(channel)
        with start_consumer(node, *mistake) as second:
            wait_until(lambda: len(second.processed) == rest, "the rest")
    return [name, 5 - len({*first.processed, *second.processed})]


class Worker(BaseHTTPRequestHandler):
    """Answers when the order is processed, one at a time."""

    def do_POST(self) -> None:
        """Process an order."""
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(2)
        self.send_response_only(200)
        self.end_headers()


@contextlib.contextmanager
def http_worker(port: int) -> Iterator[None]:
    """Run a worker in a thread."""
    with HTTPServer(("127.0.0.1", port), Worker) as server:
        threading.Thread(target=server.serve_forever).start()
        yield
        server.shutdown()


def direct_calls(node: Node, away: float) -> Row:
    """3. What is better than with synchronous calls? Call a worker that is there, or is not."""
    port, failed, begin = free_port(), 0, time.monotonic()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # by no proxy
    with contextlib.nullcontext() if away else http_worker(port):
        for body in BODIES:
            try:
                opener.open(f"http://127.0.0.1:{port}", body).close()
            except OSError:
                failed += 1
        took = time.monotonic() - begin
    name = f"direct calls, the worker is {'away' if away else 'there'}"
    return [name, took, "never" if failed else took, failed]


def queue(node: Node, away: float) -> Row:
    """3. The same over a queue; the consumer is there, or comes so many seconds later."""
    with ExitStack() as stack:
        if not away:
            consumer = stack.enter_context(start_consumer(node))
        producer = stack.enter_context(start_producer(node))
        assert producer.wait() == 0
        if away:
            time.sleep(producer.started + away - time.time())
            consumer = stack.enter_context(start_consumer(node))
        consumer.wait_for("Processed", times=5)
        consumer.stop()
    last = consumer.moments("Processed")[-1] - producer.started
    name = f"queue, the worker {f'comes after {away:g} s' if away else 'is there'}"
    return [name, producer.ended - producer.started, last, 0]


EXPERIMENTS: dict[str, list[Callable[[Node], Row]]] = {
    "consumers | measured": [partial(five_orders, count=count) for count in (1, 2, 3, 5)],
    "basic_ack | lost": [
        lambda node: killed_consumer(node, "after the work (`consumer.py`)"),
        lambda node: killed_consumer(node, "before the work", "early"),
        lambda node: killed_consumer(node, "automatic (`auto_ack=True`)", "auto"),
    ],
    "five orders | caller runs for | last one processed after | failed calls": [
        partial(way, away=away) for away in (0, AWAY) for way in (direct_calls, queue)
    ],
}


def cell(values: tuple[str | int | float, ...]) -> str:
    """Return what the runs have found: the median and the range of seconds, or what they were."""
    seconds = [value for value in values if isinstance(value, float)]
    if not seconds:
        return " or ".join(dict.fromkeys(map(str, values)))
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f}–{max(seconds):.2f})"


def main() -> None:
    """Print the tables in Markdown."""
    with tempfile.TemporaryDirectory(prefix="orders-measure-") as folder:
        with running_node(Path(folder)) as node:
            server, python = node.rabbitmqctl("version").strip(), sys.version.split()[0]
            print(f"RabbitMQ {server}, pika {pika.__version__}, Python {python}")
            for head, rows in EXPERIMENTS.items():
                print(f"\n| {head} |\n{'|---' * (head.count('|') + 1)}|")
                for measure in rows:
                    runs = [measure(node) for _ in range(RUNS)]
                    print("|", " | ".join(map(cell, zip(*runs, strict=True))), "|", flush=True)


if __name__ == "__main__":
    clean_up_at_signals()
    main()
