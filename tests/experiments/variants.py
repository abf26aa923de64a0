"""What the experiments set beside the two scripts. Most of it loses orders.

python -m experiments.variants FUNCTION ARGUMENTS: one of the functions here. `seconds` is the
work on an order. After `crash` orders the process kills itself; 2.5 is in the third.
"""

import json
import logging
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

import pika

import producer

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # by no proxy


def working(seconds: str, crash: str) -> Callable[[dict], None]:
    """Return the work on an order. It says "Worked" when it is done."""
    left = float(crash)

    def work(order: dict) -> None:
        nonlocal left
        time.sleep(float(seconds) * min(left, 1))
        if left >= 1:
            logging.info(f"Worked {order['order_id']!r}")
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return work


def loop(url: str) -> None:
    """Publish the samples as the tutorial does, without confirmation, and say so."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        logging.info("Connected")
        sys.stdin.read()  # until the experiment has frozen RabbitMQ
        for order in producer.SAMPLES:
            body = json.dumps({**order, "customer": "LOOP"})
            channel.basic_publish("", "orders", body, pika.BasicProperties(delivery_mode=2))
            logging.info(f"Sent {order['order_id']!r}")


def server(port: str, seconds: str, crash: str) -> None:
    """Serve HTTP: answer a POST when its order is done, one at a time, as a consumer would."""
    work = working(seconds, crash)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            logging.info(f"Received {order['order_id']!r}")
            work(order)
            logging.info(f"Processed {order['order_id']!r}")
            self.send_response_only(200)
            self.end_headers()

    HTTPServer.request_queue_size = 1024  # 5 would turn a burst away
    with HTTPServer(("127.0.0.1", int(port)), Handler) as listening:
        logging.info("Waiting for orders")
        listening.serve_forever()


def call(port: int, body: bytes) -> None:
    """Have the order worked off; raise OSError if it is not."""
    OPENER.open(f"http://127.0.0.1:{port}", body).close()


def caller(port: str, way: str) -> None:
    """Call the server with each sample in turn; if "repeated", every second until it answers."""
    for order in producer.SAMPLES:
        while True:
            logging.info(f"Calling {order['order_id']!r}")
            try:
                call(int(port), json.dumps(order).encode())
                logging.info(f"Answered {order['order_id']!r}")
                break
            except OSError:
                logging.info(f"Failed {order['order_id']!r}")
            if "repeated" not in way:
                break
            time.sleep(1)


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(message)s", level="INFO")  # as the scripts do
    logging.getLogger("pika").setLevel("CRITICAL")
    globals()[sys.argv[1]](*sys.argv[2:])
