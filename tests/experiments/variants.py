"""What the experiments set beside the two scripts. Most of it loses orders.

worker      a consumer that acknowledges when it is told to, and takes as many orders
consumer    consumer.py, with work that says when it is done and can end in a crash
loop        the tutorial's sender: publish, no confirmation; waits like producer
producer    producer.py, held between connecting and publishing until SIGUSR1 comes
http        an HTTP server that works off one order at a time
caller      calls that server with the five sample orders, one after the other
"""

import argparse
import http.client
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Dict, List

import pika

from rig.pair import consumer, producer

QUEUES = producer.QUEUES
PERSISTENT = pika.BasicProperties(delivery_mode=2)


def tell(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def samples() -> List[Dict[str, Any]]:
    """Return the five orders that producer.py publishes when it is given no file."""
    return [json.loads(line) for line in producer.SAMPLES.splitlines()]


class Work:
    """The work on an order: it leaves a trace, and the process may die right after."""

    def __init__(self, take_a_while: Callable[[], object], die_after: int) -> None:
        self.take_a_while, self.left = take_a_while, die_after

    def __call__(self, order: Dict[str, Any]) -> None:
        self.take_a_while()
        tell(f"Worked {order['order_id']}")
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def run_worker(run: argparse.Namespace) -> None:
    channel = pika.BlockingConnection(consumer.NODES).channel()
    channel.basic_qos(prefetch_count=run.prefetch)
    seconds = run.processing_time
    work = Work(lambda: channel.connection.sleep(seconds), run.die_after)

    def on_delivery(_: Any, method: Any, properties: Any, body: bytes) -> None:
        order = json.loads(body)
        tell(f"Received {order['order_id']}")
        if run.ack == "before":
            channel.basic_ack(method.delivery_tag)
        work(order)
        if run.ack == "after":
            channel.basic_ack(method.delivery_tag)

    channel.basic_consume(consumer.QUEUE, on_delivery, auto_ack=run.ack == "auto")
    channel.start_consuming()


def run_consumer(run: argparse.Namespace) -> None:
    consumer.process_order = Work(
        lambda: time.sleep(run.processing_time), run.die_after
    )
    sys.argv[1:] = []
    consumer.main()


def hold() -> None:
    """Wait for SIGUSR1, which main() has blocked so that it cannot come too early."""
    tell("Connected")
    signal.sigwait([signal.SIGUSR1])


def run_loop(run: argparse.Namespace) -> None:
    connection = pika.BlockingConnection(producer.NODES)
    channel = connection.channel()
    hold()
    for order in samples():
        body = json.dumps({**order, "order_id": f"LOOP-{order['order_id']}"})
        channel.basic_publish("", producer.QUEUE, body, PERSISTENT)
        tell(f"Sent {order['order_id']}")
    connection.close()


def run_producer(run: argparse.Namespace) -> None:
    real = producer.connect

    def connect() -> Any:
        connection = real()
        producer.connect = real  # hold it once, not when it has to connect again
        hold()
        return connection

    producer.connect = connect
    producer.PATIENCE = 300  # its clock runs while it is held
    sys.argv[1:] = []
    producer.main()


class OrderHandler(BaseHTTPRequestHandler):
    """Answers a POST when its order is done, one at a time, as one consumer would."""

    lock, seconds = threading.Lock(), 0.0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        order_id = json.loads(body)["order_id"]
        with self.lock:
            tell(f"Received {order_id}")
            time.sleep(self.seconds)
            tell(f"Processed {order_id}")
        answer = b'{"status": "processed"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Say nothing more."""


class OrderServer(ThreadingHTTPServer):
    """The server around it."""

    request_queue_size = 1024  # the default of 5 would turn a burst away
    daemon_threads = True


def run_http(run: argparse.Namespace) -> None:
    OrderHandler.seconds = run.processing_time
    with OrderServer(("127.0.0.1", run.port), OrderHandler) as server:
        tell(f"Listening on {server.server_port}")
        server.serve_forever()


def call(port: int, order: Dict[str, Any]) -> None:
    """Have the order worked off; raise HTTPException or OSError if it is not."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("POST", "/orders", json.dumps(order))
        if connection.getresponse().status != 200:
            raise http.client.HTTPException("not done")
    finally:
        connection.close()


def run_caller(run: argparse.Namespace) -> None:
    for order in samples():
        deadline = time.monotonic() + run.patience
        while True:
            tell(f"Calling {order['order_id']}")
            try:
                call(run.port, order)
                tell(f"Answered {order['order_id']}")
                break
            except (OSError, http.client.HTTPException) as error:
                tell(f"Failed {order['order_id']}: {type(error).__name__}")
                if time.monotonic() >= deadline:
                    break
                time.sleep(run.pause)
    tell("Done")


def main() -> None:
    """Play the role that the command line names."""
    roles = {
        "worker": run_worker,
        "consumer": run_consumer,
        "loop": run_loop,
        "producer": run_producer,
        "http": run_http,
        "caller": run_caller,
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("role", choices=roles)
    add("--ack", choices=["before", "auto", "after", "never"], default="after")
    add("--prefetch", type=int, default=1, help="0: no limit")
    add("--processing-time", type=float, default=2)
    add("--die-after", type=int, default=0, metavar="N", help="die with order N done")
    add("--port", type=int, default=0)
    add("--patience", type=float, default=0, help="seconds for which to call again")
    add("--pause", type=float, default=0, help="seconds between two such calls")
    run = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    roles[run.role](run)


if __name__ == "__main__":
    main()
