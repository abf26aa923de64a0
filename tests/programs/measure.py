"""Measure what README.md answers; print medians and ranges of three runs: tests/run measure"""

import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from signal import SIGINT

import pika

from rig.node import Node, connect, free_port, running_node
from rig.orders import SAMPLE_IDS, counts, order_json, put
from rig.processes import CONSUMER, PRODUCER, ROOT, Program, publish
from rig.waiting import wait_until

ENGLISH, RUSSIAN = (ROOT / "README.md").read_text("utf-8").replace(",", ".").split("\n# Заказы")
WRONG_ACK = Path(__file__).with_name("wrong_ack.py")
BODIES = [order_json(order_id) for order_id in SAMPLE_IDS]


def start_consumer(node: Node, *mistake: str) -> Program:
    """Start a consumer, and wait until it consumes."""
    consumer = Program(WRONG_ACK if mistake else CONSUMER, node.url(), *mistake)
    consumer.wait_for("Waiting for orders")
    return consumer


def moments(*consumers: Program) -> list[float]:
    """Return when they logged that an order is received or processed, as time.time() tells it."""
    log = "".join(consumer.log for consumer in consumers)
    clocks = re.findall("(?m)^(.*) INFO (?:Received|Processed)", log)
    return sorted(datetime.fromisoformat(clock).timestamp() for clock in clocks)


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
    first, *_, last = moments(*consumers)
    return [last - first]


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


def direct_calls(port: int, failures: int) -> list[float]:
    """3. What is better than with synchronous calls? Call an HTTP worker on a port."""
    begin, failed = time.monotonic(), 0
    for body in BODIES:
        try:
            connection = HTTPConnection("127.0.0.1", port)
            connection.request("POST", "/", body)
            connection.getresponse().read()
        except ConnectionRefusedError:
            failed += 1
    assert failed == failures
    return [time.monotonic() - begin]


def queue(node: Node, away: int) -> list[float]:
    """3. The same over a queue; the consumer is there, or comes so many seconds later."""
    with ExitStack() as stack:
        if not away:
            consumer = stack.enter_context(start_consumer(node))
        begin = time.time()
        publish(PRODUCER, node.url())
        free = time.time()
        if away:
            time.sleep(begin + away - free)
            consumer = stack.enter_context(start_consumer(node))
        consumer.wait_for("Processed", times=5)
        consumer.kill(SIGINT)
    return [free - begin, moments(consumer)[-1] - begin]


def show(what: str, measure: Callable[[], list[float]], stated: str) -> bool:
    """Print the median and the range of each figure; tell whether README.md states the same."""
    right = stated in ENGLISH and stated in RUSSIAN
    runs = zip(*(measure() for _ in range(3)), strict=True)
    figures = [float(figure) for figure in re.findall(r"[\d.]+", stated)]
    for figure, (low, middle, high) in zip(figures, map(sorted, runs), strict=True):
        right = right and abs(middle - figure) < min(0.3, figure / 2 + 0.1)
        print(f"{what}: {middle:.2f} ({low:.2f}–{high:.2f})", flush=True)
    print(f"README.md: {stated.strip()}{'' if right else ': WRONG'}", flush=True)
    return right


def main() -> int:
    """Return 1 if README.md, in one of its languages, states something else."""
    with running_node() as node, HTTPServer(("127.0.0.1", 0), Worker) as worker:
        threading.Thread(target=worker.serve_forever, daemon=True).start()
        print("RabbitMQ", node.command("rabbitmqctl", "version").strip())
        print(f"pika {pika.__version__}, Python {sys.version}")
        right = [
            show("Five orders, one consumer", lambda: five_orders(node, 1), " 10.01 "),
            show("Five orders, two consumers", lambda: five_orders(node, 2), " 6.00 "),
            show("Five orders, three consumers", lambda: five_orders(node, 3), " 4.00 "),
            show("Five orders, five consumers", lambda: five_orders(node, 5), " 2.01 "),
            show("Lost with basic_ack after the work", lambda: killed_consumer(node), "|0\n"),
            show("Lost with basic_ack before it", lambda: killed_consumer(node, "early"), "|1\n"),
            show("Lost with auto_ack", lambda: killed_consumer(node, "auto"), "|3\n"),
            show("HTTP calls", lambda: direct_calls(worker.server_port, 0), "|10.01|"),
            show("HTTP calls, no consumer", lambda: direct_calls(free_port(), 5), "|0.00|"),
            show("Queue: free, processed", lambda: queue(node, 0), "|0.24|10.22\n"),
            show("Queue, consumer after 5 s", lambda: queue(node, 5), "|0.26|15.26\n"),
        ]
    return int(not all(right))


if __name__ == "__main__":
    sys.exit(main())
