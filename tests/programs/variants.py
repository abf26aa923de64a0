"""What the experiments set beside the two scripts. Most of it loses orders.

Changes of consumer.py, as those in rig/changes.py; and programs of their own:
python -m programs.variants PROGRAM ARGUMENTS.
"""

import json
import logging
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic, BasicProperties

import producer
from rig.changes import work_is

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # by no proxy
Delivery = tuple[Basic.Deliver | None, BasicProperties | None, bytes | None]


# Changes of consumer.py


def crashing_work(seconds: float, crash: float) -> Callable[[dict], None]:
    """Return the work on an order. It takes so many seconds, and says "Worked" when it is done.

    After `crash` orders the process kills itself; 2.5 is in the middle of the third.
    """
    left = crash

    def work(order: dict) -> None:
        nonlocal left
        time.sleep(seconds * min(left, 1))
        if left >= 1:
            logging.info(f"Worked {order['order_id']!r}")
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return work


def work_may_crash(seconds: float, crash: float) -> None:
    """Let the work be crashing_work()."""
    work_is(crashing_work(seconds, crash))


def no_prefetch_limit() -> None:
    """Let RabbitMQ deliver all orders at once."""
    BlockingChannel.basic_qos = lambda *_, **__: None


def no_ack() -> None:
    """Forget to acknowledge."""
    BlockingChannel.basic_ack = lambda *_: None


def automatic_ack() -> None:
    """Let RabbitMQ take an order as acknowledged when it sends it."""
    consume = BlockingChannel.consume

    def consume_automatically(channel: BlockingChannel, queue: str, **options: object) -> object:
        return consume(channel, queue, auto_ack=True, **options)

    BlockingChannel.consume = consume_automatically
    no_ack()


def early_ack() -> None:
    """Acknowledge before the work."""
    consume, ack = BlockingChannel.consume, BlockingChannel.basic_ack

    def consume_and_ack(
        channel: BlockingChannel, queue: str, **options: object
    ) -> Iterator[Delivery]:
        for method, properties, body in consume(channel, queue, **options):
            if method:
                ack(channel, method.delivery_tag)
            yield method, properties, body

    BlockingChannel.consume = consume_and_ack
    no_ack()


# Programs


def server(port: str, seconds: str, crash: str) -> None:
    """Serve HTTP: answer a POST when its order is done, one at a time, as a consumer would."""
    work = crashing_work(float(seconds), float(crash))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            work(order)
            logging.info(f"Processed {order['order_id']!r}")
            self.send_response_only(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", int(port)), Handler) as listening:
        logging.info("Waiting for orders")
        listening.serve_forever()


def caller(port: str, repeat: str) -> None:
    """Call the server with each sample in turn; if `repeat` is "True", until it answers."""
    for order in producer.ORDERS:
        while True:
            try:
                OPENER.open(f"http://127.0.0.1:{port}", json.dumps(order).encode()).close()
            except OSError:
                logging.info(f"Failed {order['order_id']!r}")
            else:
                logging.info(f"Answered {order['order_id']!r}")
                break
            if repeat != "True":
                break
            time.sleep(1)


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO")
    programs: dict[str, Callable[..., None]] = {"server": server, "caller": caller}
    programs[sys.argv[1]](*sys.argv[2:])
