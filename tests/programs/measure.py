"""Measure what README.md answers, and print its three tables: tests/run measure"""

import contextlib
import http.client
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer

import pika

from rig.node import Node, clean_up_at_signals, connect, free_port, running_node, wait_until
from rig.orders import SAMPLE_IDS, counts, order_json, put
from rig.processes import CONSUMER, PRODUCER, WORKER, Program

AWAY = 5  # seconds without a consumer
BODIES = [order_json(order_id, seconds=2) for order_id in SAMPLE_IDS]
Row = list[str | int | float]  # a float is seconds


def start_consumer(node: Node, *mistake: str) -> Program:
    """Start a consumer, and wait until it consumes."""
    consumer = Program(WORKER if mistake else CONSUMER, node.url(), *mistake)
    consumer.wait_for("Waiting for orders")
    return consumer


def five_orders(count: int, node: Node) -> Row:
    """1. How long do five orders take? Let so many consumers share them."""
    with ExitStack() as stack, connect(node.url()) as connection:
        channel = connection.channel()
        consumers = [stack.enter_context(start_consumer(node)) for _ in range(count)]
        wait_until(lambda: counts(channel) == (0, count), "all consume")
        put(channel, *BODIES)
        wait_until(lambda: sum(each.count("Processed") for each in consumers) == 5, "five orders")
        for each in consumers:
            each.stop()
    begin = min(moment for each in consumers for moment in each.moments("Received"))
    end = max(moment for each in consumers for moment in each.moments("Processed"))
    return [end - begin]


def killed_consumer(*mistake: str, node: Node) -> Row:
    """2. What does basic_ack do? Kill a consumer amid the third order; another gets the rest."""
    with connect(node.url()) as connection:
        channel = connection.channel()
        channel.queue_delete("orders")
        put(channel, *BODIES)
        with start_consumer(node, *mistake) as first:
            first.wait_for("Received", times=3)
            time.sleep(1)
            first.kill()
        wait_until(lambda: counts(channel)[1] == 0, "RabbitMQ to see it dead")
        rest, _ = counts(channel)
        with start_consumer(node, *mistake) as second:
            wait_until(lambda: second.count("Processed") == rest, "the rest")
    return [5 - len({*first.orders("Processed"), *second.orders("Processed")})]


class Worker(BaseHTTPRequestHandler):
    """Answers when the order is processed, one at a time."""

    def do_POST(self) -> None:
        """Process an order."""
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(2)
        self.send_response_only(200)
        self.end_headers()


def direct_calls(worker: bool, node: Node) -> Row:
    """3. What is better than with synchronous calls? Call an HTTP worker that is there, or not."""
    failed = 0
    with HTTPServer(("127.0.0.1", 0), Worker) as server:
        threading.Thread(target=server.serve_forever).start()
        port = server.server_port if worker else free_port()
        begin = time.monotonic()
        for body in BODIES:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as call:
                try:
                    call.request("POST", "/", body)
                    call.getresponse().read()
                except ConnectionRefusedError:
                    failed += 1
        took = time.monotonic() - begin
        server.shutdown()
    return [took, "never" if failed else took, failed]


def queue(away: int, node: Node) -> Row:
    """3. The same over a queue; the consumer is there, or comes so many seconds later."""
    with ExitStack() as stack:
        if not away:
            consumer = stack.enter_context(start_consumer(node))
        producer = stack.enter_context(Program(PRODUCER, node.url()))
        assert producer.wait() == 0
        if away:
            time.sleep(producer.started + away - time.time())
            consumer = stack.enter_context(start_consumer(node))
        consumer.wait_for("Processed", times=5)
        consumer.stop()
    last = consumer.moments("Processed")[-1]
    return [producer.ended - producer.started, last - producer.started, 0]


TABLES: dict[str, dict[str, Callable[..., Row]]] = {
    "consumers | measured": {str(count): partial(five_orders, count) for count in (1, 2, 3, 5)},
    "`basic_ack` | orders lost": {
        "after the work (`consumer.py`)": killed_consumer,
        "before the work": partial(killed_consumer, "5", "early"),
        "automatic (`auto_ack=True`)": partial(killed_consumer, "5", "auto"),
    },
    "five orders | producer is free after | all processed after | failed": {
        "direct calls": partial(direct_calls, True),
        "queue": partial(queue, 0),
        "direct calls, no consumer": partial(direct_calls, False),
        f"queue, consumer comes after {AWAY} s": partial(queue, AWAY),
    },
}


def cell(values: tuple[str | int | float, ...]) -> str:
    """Return what the runs have found: the median and the range of seconds, or what they were."""
    if isinstance(values[0], float):
        low, middle, high = sorted(values)
        return f"{middle:.2f} s ({low:.2f}–{high:.2f})"
    return " or ".join(dict.fromkeys(map(str, values)))


def main() -> None:
    """Print the tables in Markdown."""
    with running_node() as node:
        python = sys.version.split()[0]
        print(f"RabbitMQ {node.version()}, pika {pika.__version__}, Python {python}")
        for head, rows in TABLES.items():
            print(f"\n| {head} |\n{'|---' * (head.count('|') + 1)}|")
            for name, measure in rows.items():
                runs = [measure(node=node) for _ in range(3)]
                cells = map(cell, zip(*runs, strict=True))
                print("|", " | ".join([name, *cells]), "|", flush=True)


if __name__ == "__main__":
    clean_up_at_signals()
    main()
