"""What the experiments set beside the two scripts. Most of it loses orders.

python -m experiments.variants ROLE OPTIONS: the role is a function run_ROLE here, the
options are its arguments, as a JSON object. `seconds` is the work on an order. After
`crash` orders the process kills itself; 2.5 is in the middle of the third.
"""

import http.client
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pika

import consumer
import producer

PERSISTENT = pika.BasicProperties(delivery_mode=2)
SAMPLES = [json.loads(line) for line in producer.SAMPLES.splitlines()]


def tell(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def working(seconds: float, crash: float) -> Callable[..., None]:
    """Return the work on an order. It says "Worked" when it is done."""
    left = crash

    def work(order: dict) -> None:
        nonlocal left
        time.sleep(seconds * min(left, 1))
        if left >= 1:
            tell(f"Worked {order['order_id']}")
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return work


def run_worker(ack: str, seconds: float, crash: float = math.inf) -> None:
    """A consumer without a prefetch limit; `ack`: before, auto, after or never."""
    channel = pika.BlockingConnection(consumer.amqp_nodes()).channel()
    work = working(seconds, crash)

    def on_delivery(_: Any, method: Any, properties: Any, body: bytes) -> None:
        order = json.loads(body)
        tell(f"Received {order['order_id']}")
        if ack == "before":
            channel.basic_ack(method.delivery_tag)
        work(order)
        if ack == "after":
            channel.basic_ack(method.delivery_tag)
        tell(f"Processed {order['order_id']}")

    channel.basic_consume("orders", on_delivery, auto_ack=ack == "auto")
    tell("Waiting for orders")
    channel.start_consuming()


def run_consumer(seconds: float, crash: float = math.inf) -> None:
    """consumer.py, with work that says when it is done and can end in a crash."""
    consumer.process_order = working(seconds, crash)
    consumer.main()


def hold() -> None:
    """Wait for SIGUSR1."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])  # so it cannot kill
    tell("Connected")
    signal.sigwait([signal.SIGUSR1])


def run_loop() -> None:
    """The tutorial's sender: it publishes, without confirmation, and says so."""
    connection = pika.BlockingConnection(producer.amqp_nodes())
    channel = connection.channel()
    hold()
    for order in SAMPLES:
        order["order_id"] = order["order_id"].replace("ORD", "LOOP")
        channel.basic_publish("", "orders", json.dumps(order), PERSISTENT)
        tell(f"Sent {order['order_id']}")
    connection.close()


def run_producer() -> None:
    """producer.py, held between connecting and publishing until SIGUSR1 comes."""
    real = producer.connect

    def connect() -> Any:
        connection = real()
        producer.connect = real  # hold it once, not when it has to connect again
        hold()
        return connection

    producer.connect = connect
    producer.PATIENCE = 300  # its clock runs while it is held
    producer.main()


class OrderHandler(BaseHTTPRequestHandler):
    """Answers a POST when its order is done, one at a time, as one consumer would."""

    lock = threading.Lock()
    work: Callable[..., None]

    def do_POST(self) -> None:
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            tell(f"Received {order['order_id']}")
            type(self).work(order)
            tell(f"Processed {order['order_id']}")
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing more."""


def run_http(port: int, seconds: float, crash: float = math.inf) -> None:
    """An HTTP server that works off orders."""
    OrderHandler.work = working(seconds, crash)
    ThreadingHTTPServer.request_queue_size = 1024  # 5 would turn a burst away
    with ThreadingHTTPServer(("127.0.0.1", port), OrderHandler) as server:
        tell("Waiting for orders")
        server.serve_forever()


def call(port: int, body: bytes) -> None:
    """Have the order worked off; raise HTTPException or OSError if it is not."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("POST", "/orders", body)
        if connection.getresponse().status != 200:
            raise http.client.HTTPException("not done")
    finally:
        connection.close()


def run_caller(port: int, patience: float = 0, pause: float = 0) -> None:
    """Calls the HTTP server with the five samples, one after the other.

    For `patience` seconds it calls again where that fails, after a pause in seconds.
    """
    for order in SAMPLES:
        end = time.monotonic() + patience
        answered = False
        while not answered:
            tell(f"Calling {order['order_id']}")
            try:
                call(port, json.dumps(order).encode())
                answered = True
                tell(f"Answered {order['order_id']}")
            except (OSError, http.client.HTTPException):
                tell(f"Failed {order['order_id']}")
                if time.monotonic() >= end:
                    break
                time.sleep(pause)


if __name__ == "__main__":
    role, options = sys.argv[1:]
    del sys.argv[1:]  # the scripts' main() reads it, too
    globals()[f"run_{role}"](**json.loads(options))
