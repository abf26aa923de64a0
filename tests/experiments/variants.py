"""What the experiments set beside the two scripts. Most of it loses orders.

Changes of consumer.py, as those in rig/changes.py; and programs of their own:
python -m experiments.variants PROGRAM ARGUMENTS.
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

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic, BasicProperties

import consumer
import producer
from rig.changes import work_is

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # by no proxy


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

    def consume_automatically(
        channel: BlockingChannel, queue: str, inactivity_timeout: float
    ) -> Iterator[tuple[Basic.Deliver | None, BasicProperties | None, bytes | None]]:
        found = consume(channel, queue, auto_ack=True, inactivity_timeout=inactivity_timeout)
        yield from found

    BlockingChannel.consume = consume_automatically
    no_ack()


def early_ack() -> None:
    """Acknowledge before the work."""
    handle, ack = consumer.handle, BlockingChannel.basic_ack

    def handle_after_ack(channel: BlockingChannel, method: Basic.Deliver, body: bytes) -> None:
        ack(channel, method.delivery_tag)
        handle(channel, method, body)

    consumer.handle = handle_after_ack
    no_ack()


# Programs


def loop(url: str) -> None:
    """Publish the samples as the tutorial does, without confirmation, and say so."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        logging.info("Connected")
        sys.stdin.read()  # until the experiment has frozen RabbitMQ
        for order in producer.ORDERS:
            body = json.dumps({**order, "customer": "LOOP"})
            channel.basic_publish("", "orders", body, pika.BasicProperties(delivery_mode=2))
            logging.info(f"Sent {order['order_id']!r}")


def server(port: str, seconds: str, crash: str) -> None:
    """Serve HTTP: answer a POST when its order is done, one at a time, as a consumer would."""
    work = crashing_work(float(seconds), float(crash))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            logging.info(f"Received {order['order_id']!r}")
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
            logging.info(f"Calling {order['order_id']!r}")
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
    logging.basicConfig(format="%(asctime)s %(message)s", level="INFO")  # as the scripts do
    logging.getLogger("pika").setLevel("CRITICAL")
    programs: dict[str, Callable[..., None]] = {"loop": loop, "server": server, "caller": caller}
    programs[sys.argv[1]](*sys.argv[2:])
