"""What the experiments set beside consumer.py and producer.py. Not for use: most of it loses orders.

worker      a consumer that acknowledges at another moment, and takes as many orders as it is told
consumer    consumer.py, with work that says when it is done and can end in a crash right after
loop        the tutorial's sender: publish, no confirmation
producer    producer.py, held between connecting and publishing until SIGUSR1 comes; so is the loop
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
from pathlib import Path
from typing import Any, Dict, List

import pika

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import consumer
import producer

QUEUES = producer.QUEUES


def tell(text: str) -> None:
    print(text, flush=True)


class Work:
    """The work on an order: it takes a while, it leaves a trace, and the process may die right after."""

    def __init__(self, seconds: float, die_after: int) -> None:
        self.seconds, self.left = seconds, die_after

    def __call__(self, order: Dict[str, Any], channel: Any, seconds: float = 0) -> None:
        channel.connection.sleep(self.seconds)
        tell(f"Worked {order['order_id']}")
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def run_worker(run: argparse.Namespace) -> None:
    channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()
    channel.basic_qos(prefetch_count=run.prefetch)
    work = Work(run.processing_time, run.die_after)

    def on_delivery(_: Any, method: Any, properties: Any, body: bytes) -> None:
        order = json.loads(body)
        tell(f"Received {order['order_id']}")
        if run.ack == "before":
            channel.basic_ack(method.delivery_tag)
        work(order, channel)
        if run.ack == "after":
            channel.basic_ack(method.delivery_tag)

    channel.basic_consume(consumer.QUEUE, on_delivery, auto_ack=run.ack == "auto")
    channel.start_consuming()


def run_consumer(run: argparse.Namespace) -> None:
    consumer.process_order = Work(run.processing_time, run.die_after)
    sys.argv[1:] = []
    consumer.main()


def held(channel: Any) -> Any:
    """Return the channel when SIGUSR1 has come, which main() has blocked so that it cannot come too early."""
    tell("Connected")
    signal.sigwait([signal.SIGUSR1])
    return channel


def run_loop(run: argparse.Namespace) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = held(connection.channel())
    for order in producer.SAMPLES:
        body = json.dumps({**order, "order_id": f"LOOP-{order['order_id']}"})
        channel.basic_publish("", producer.QUEUE, body, pika.BasicProperties(delivery_mode=2))
        tell(f"Sent {order['order_id']}")
    connection.close()


def run_producer(run: argparse.Namespace) -> None:
    real = producer.connect

    def connect(nodes: List[Any], patience: float, trouble: str = "", channel: Any = None) -> Any:
        channel = real(nodes, patience, trouble, channel)
        return channel if trouble else held(channel)  # once, not when it has to connect again

    producer.connect = connect
    sys.argv[1:] = []
    producer.main()


class OrderHandler(BaseHTTPRequestHandler):
    """Answers a POST when the order in it is done, one at a time: as much work as one consumer can do."""

    lock, seconds = threading.Lock(), 0.0

    def do_POST(self) -> None:
        order_id = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["order_id"]
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
    request_queue_size = 1024  # the default of 5 would turn a burst away
    daemon_threads = True


def run_http(run: argparse.Namespace) -> None:
    OrderHandler.seconds = run.processing_time
    with OrderServer(("127.0.0.1", run.port), OrderHandler) as server:
        tell(f"Listening on {server.server_port}")
        server.serve_forever()


def call(port: int, order: Dict[str, Any]) -> None:
    """Have the order worked off, and return when it is; an error of HTTP or of the network otherwise."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("POST", "/orders", json.dumps(order))
        if connection.getresponse().status != 200:
            raise http.client.HTTPException("not done")
    finally:
        connection.close()


def run_caller(run: argparse.Namespace) -> None:
    for order in producer.SAMPLES:
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
    roles = {
        "worker": run_worker,
        "consumer": run_consumer,
        "loop": run_loop,
        "producer": run_producer,
        "http": run_http,
        "caller": run_caller,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("role", choices=roles)
    parser.add_argument("--ack", choices=["before", "auto", "after", "never"], default="after")
    parser.add_argument("--prefetch", type=int, default=1, help="0: no limit")
    parser.add_argument("--processing-time", type=float, default=2)
    parser.add_argument("--die-after", type=int, default=0, metavar="N", help="die when order N is done")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--patience", type=float, default=0, help="seconds for which to call again")
    parser.add_argument("--pause", type=float, default=0, help="seconds between two such calls")
    run = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    roles[run.role](run)


if __name__ == "__main__":
    main()
