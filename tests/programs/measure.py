"""Measure what README.md answers; print medians and ranges of three runs: tests/run measure"""

import re
import sys
import threading
import time
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from signal import SIGINT

import pika

from rig.node import Node, connect, free_port, running_node
from rig.orders import SAMPLE_IDS, counts, order_json, put
from rig.processes import CONSUMER, PRODUCER, ROOT, Program, run_producer
from rig.waiting import wait_until

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
        wait_until(lambda: counts(channel) == (0, count), "all consume")
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
    begin, failed = time.monotonic(), 0
    for body in BODIES:
        try:
            connection = HTTPConnection("127.0.0.1", port)
            connection.request("POST", "/", body)
            connection.getresponse().read()
        except ConnectionRefusedError:
            failed += 1
    free = time.monotonic() - begin
    assert failed in (0, 5)
    return [free] if failed else [free, free]


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


def stated(language: str, heading: str) -> list[float]:
    """Return the numbers in the cells of README.md's analysis. Its sentences may repeat them."""
    (analysis,) = re.findall(rf"(?s)\n## {heading}\n(.*?)\n## ", language)
    cells = re.findall(r"\| (\d[\d.]*)", analysis)
    seconds = re.findall(r"\d+\.\d\d\b(?!\.)", analysis)
    assert {*seconds} <= {*cells}, f"{heading}: {seconds} are not all in {cells}"
    return [float(cell) for cell in cells]


def main() -> int:
    """Return 1 if README.md, in one of its languages, states something else."""
    readme = (ROOT / "README.md").read_text("utf-8").replace(",", ".")
    english, russian = readme.split("\n# Заказы")
    figures = stated(english, "Analysis")
    assert stated(russian, "Анализ") == figures
    with running_node() as node, HTTPServer(("127.0.0.1", 0), Worker) as worker:
        threading.Thread(target=worker.serve_forever, daemon=True).start()
        print("RabbitMQ", node.command("rabbitmqctl", "version").strip())
        print(f"pika {pika.__version__}, Python {sys.version}")
        assert figures[:4] == [1, 2, 3, 5], "the first row: how many consumers share the orders"
        expected = iter(figures[4:])
        right = True
        for what, measure in [
            ("Five orders, one consumer", partial(five_orders, node, 1)),
            ("Five orders, two consumers", partial(five_orders, node, 2)),
            ("Five orders, three consumers", partial(five_orders, node, 3)),
            ("Five orders, five consumers", partial(five_orders, node, 5)),
            ("Lost with basic_ack after the work", partial(killed_consumer, node)),
            ("Lost with basic_ack before it", partial(killed_consumer, node, "early")),
            ("Lost with auto_ack", partial(killed_consumer, node, "auto")),
            ("HTTP calls", partial(direct_calls, worker.server_port)),
            ("Queue: free, processed", partial(queue, node, 0)),
            ("HTTP calls, no server", partial(direct_calls, free_port())),
            ("Queue, consumer after 5 s", partial(queue, node, 5)),
        ]:
            runs = [measure() for _ in range(3)]
            for three in zip(*runs, strict=True):
                low, middle, high = sorted(three)
                figure = next(expected)
                same = abs(middle - figure) < min(0.3, figure / 2 + 0.1)
                right = right and same
                print(f"{what}: {middle:.2f} ({low:.2f}–{high:.2f}), stated: {figure:.2f}", end="")
                print("" if same else " WRONG", flush=True)
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
