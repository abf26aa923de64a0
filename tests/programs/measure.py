"""Measure what README.md answers; print medians and ranges of three runs: tests/run measure"""

import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from signal import SIGINT

import pika

from rig.node import Node, clean_up_at_signals, connect, free_port, running_node, wait_until
from rig.orders import SAMPLE_IDS, counts, order_json, put
from rig.processes import CLOCK, CONSUMER, PRODUCER, Program

WRONG_ACK = Path(__file__).with_name("wrong_ack.py")
BODIES = [order_json(order_id) for order_id in SAMPLE_IDS]


def start_consumer(node: Node, *mistake: str) -> Program:
    """Start a consumer, and wait until it consumes."""
    consumer = Program(WRONG_ACK if mistake else CONSUMER, node.url(), *mistake)
    consumer.wait_for("Waiting for orders")
    return consumer


def moments(consumer: Program, said: str) -> list[float]:
    """Return when lines such as "Received 'A'" were logged, as time.time() tells it."""
    clocks = [CLOCK.match(line) for line in consumer.log if said in line]
    return [datetime.fromisoformat(clock[0].strip()).timestamp() for clock in clocks if clock]


def five_orders(node: Node, count: int) -> list[float]:
    """1. How long do five orders take? Let so many consumers share them."""
    with ExitStack() as stack, connect(node.url()) as connection:
        channel = connection.channel()
        consumers = [stack.enter_context(start_consumer(node)) for _ in range(count)]
        wait_until(lambda: counts(channel) == (0, count), "all consume")
        put(channel, *BODIES)
        wait_until(lambda: sum(each.count("Processed") for each in consumers) == 5, "five orders")
        for each in consumers:
            each.kill(SIGINT)
    begin = min(moment for each in consumers for moment in moments(each, "Received"))
    return [max(moment for each in consumers for moment in moments(each, "Processed")) - begin]


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
        """Process an order."""
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(2)
        self.send_response_only(200)
        self.end_headers()


def direct_calls(there: bool) -> list[float]:
    """3. What is better than with synchronous calls? Call an HTTP worker that is there, or not."""
    failed = 0
    with HTTPServer(("127.0.0.1", 0), Worker) as server:
        threading.Thread(target=server.serve_forever).start()
        port = server.server_port if there else free_port()
        begin = time.monotonic()
        for body in BODIES:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}", body).close()
            except urllib.error.URLError:
                failed += 1
        took = time.monotonic() - begin
        server.shutdown()
    return [took, failed]


def queue(node: Node, away: int) -> list[float]:
    """3. The same over a queue; the consumer is there, or comes so many seconds later."""
    with ExitStack() as stack:
        if not away:
            consumer = stack.enter_context(start_consumer(node))
        begin = time.time()
        producer = stack.enter_context(Program(PRODUCER, node.url()))
        assert producer.wait() == 0
        free = time.time()
        if away:
            time.sleep(begin + away - free)
            consumer = stack.enter_context(start_consumer(node))
        consumer.wait_for("Processed", times=5)
        consumer.kill(SIGINT)
    return [free - begin, moments(consumer, "Processed")[-1] - begin]


def show(what: str, measure: Callable[[], list[float]]) -> None:
    """Print the median and the range of each figure."""
    runs = zip(*(measure() for _ in range(3)), strict=True)
    figures = [f"{middle:.2f} ({low:.2f}–{high:.2f})" for low, middle, high in map(sorted, runs)]
    print(f"{what}:", "; ".join(figures), flush=True)


def main() -> None:
    """Print what README.md tells."""
    with running_node() as node:
        python = sys.version.split()[0]
        print(f"RabbitMQ {node.version()}, pika {pika.__version__}, Python {python}")
        for count in (1, 2, 3, 5):
            show(f"Five orders, {count} consumers; seconds", partial(five_orders, node, count))
        show("Lost with basic_ack after the work", lambda: killed_consumer(node))
        show("Lost with basic_ack before it", lambda: killed_consumer(node, "early"))
        show("Lost with auto_ack", lambda: killed_consumer(node, "auto"))
        show("Direct calls; seconds; failed", lambda: direct_calls(True))
        show("Without a consumer; seconds; failed", lambda: direct_calls(False))
        show("Queue; seconds until free; until processed", lambda: queue(node, 0))
        show("Queue, consumer after 5 s", lambda: queue(node, 5))


if __name__ == "__main__":
    clean_up_at_signals()
    main()
