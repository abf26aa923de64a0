"""Measure what README.md answers; print medians and ranges of three: tests/run measure"""

import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from signal import SIGINT
from statistics import median

import pika

from rig.node import Node, connect, free_port, running_node
from rig.orders import SAMPLE_IDS, counts, order_json, put
from rig.processes import CONSUMER, PRODUCER, Program, run_producer
from rig.waiting import LIMIT, wait_until

WRONG_ACK = Path(__file__).with_name("wrong_ack.py")
BODIES = [order_json(order_id) for order_id in SAMPLE_IDS]


def start_consumer(node: Node, *mistake: str) -> Program:
    """Start a consumer, and wait until it consumes."""
    consumer = Program(WRONG_ACK if mistake else CONSUMER, node.url(), *mistake)
    consumer.wait_for("Waiting for orders")
    return consumer


def moments(*consumers: Program) -> list[datetime]:
    """Return when they logged that an order is received or processed."""
    log = "".join(consumer.log for consumer in consumers)
    clocks = re.findall("(?m)^(.*) INFO (?:Received|Processed)", log)
    return sorted(map(datetime.fromisoformat, clocks))


def five_orders(node: Node, count: int) -> list[float]:
    """1. How long do five orders take? Let so many consumers share them."""
    with ExitStack() as stack, connect(node.url()) as connection:
        channel = connection.channel()
        consumers = [stack.enter_context(start_consumer(node)) for _ in range(count)]
        wait_until(lambda: counts(channel) == (0, count), "all to consume")
        put(channel, *BODIES)
        wait_until(lambda: sum(each.count("Processed") for each in consumers) == 5, "five orders")
        for each in consumers:
            each.kill(SIGINT)
    first, *_, last = moments(*consumers)
    return [(last - first).total_seconds()]


def killed_consumer(node: Node, *mistake: str) -> list[float]:
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
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(2)
        self.send_response_only(200)
        self.end_headers()


def direct_calls(port: int) -> list[float]:
    """3. What is better than with synchronous calls? Call an HTTP worker on a port."""
    begin = time.monotonic()
    for body in BODIES:
        try:
            connection = HTTPConnection("127.0.0.1", port)
            connection.request("POST", "/", body)
            connection.getresponse().read()
        except ConnectionRefusedError:
            pass  # nobody listens
    return [time.monotonic() - begin]


def queue(node: Node, away: int) -> list[float]:
    """3. The same over a queue; the consumer is there, or comes so many seconds later."""
    with ExitStack() as stack:
        if not away:
            consumer = stack.enter_context(start_consumer(node))
        begin = time.monotonic()
        run_producer(PRODUCER, node.url())
        free = time.monotonic() - begin
        if away:
            time.sleep(away - free)
            consumer = stack.enter_context(start_consumer(node))
        consumer.wait_for("Processed", times=5)
        processed = time.monotonic() - begin
        consumer.kill(SIGINT)
    return [free, processed]


def queue_without_rabbitmq() -> list[float]:
    """3. The same, but nobody listens where RabbitMQ should be."""
    begin = time.monotonic()
    url = f"amqp://127.0.0.1:{free_port()}"
    with Program(PRODUCER, url, may_say="^ERROR Failed: ") as producer:
        assert producer.wait(3 * LIMIT) == 1
    return [time.monotonic() - begin]


def report(what: str, measure: Callable[[], list[float]]) -> list[float]:
    """Measure three times; print and return the medians."""
    results = [measure() for _ in range(3)]
    medians = []
    for three in zip(*results, strict=True):
        medians.append(median(three))
        print(f"{what}: {median(three):.2f} ({min(three):.2f}–{max(three):.2f})", flush=True)
    return medians


def main() -> None:
    """AssertionError for what cannot be noise: lost orders, or another multiple of two seconds."""
    with running_node() as node, HTTPServer(("127.0.0.1", 0), Worker) as worker:
        threading.Thread(target=worker.serve_forever, daemon=True).start()
        print("RabbitMQ", node.command("rabbitmqctl", "version").strip())
        print(f"pika {pika.__version__}, Python {sys.version}")
        for count, expected in [(1, 10), (2, 6), (3, 4), (5, 2)]:
            (seconds,) = report(f"With {count} consumers", partial(five_orders, node, count))
            assert expected <= seconds < expected + 1
        lost = partial(killed_consumer, node)
        assert report("Lost, basic_ack after the work", lost) == [0]
        assert report("Lost, basic_ack before it", partial(lost, "early")) == [1]
        assert report("Lost, auto_ack", partial(lost, "auto")) == [3]
        report("HTTP calls", partial(direct_calls, worker.server_port))
        free, _ = report("Queue: free, processed", partial(queue, node, 0))
        assert free < 2
        report("HTTP calls, no server", partial(direct_calls, free_port()))
        report("Queue, consumer after 5 s: free, processed", partial(queue, node, 5))
        report("Queue, no RabbitMQ", queue_without_rabbitmq)


if __name__ == "__main__":
    main()
