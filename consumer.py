# For "uv run consumer.py" and "pipx run consumer.py" (PEP 723):
# /// script
# requires-python = ">=3.8"
# dependencies = ["pika>=1.3,<2"]
# ///
"""Process the orders in RabbitMQ's queue "orders", one at a time.

Run it with: python3 consumer.py [--processing-time SECONDS], by default 2 an order.
The environment variable AMQP_URL says where RabbitMQ is.
"""

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
import warnings
from concurrent import futures
from decimal import Decimal
from typing import Any

import pika
from pika.exceptions import AMQPError

# pika 1.5 warns that BlockingConnection will go in 2.0, which line 4 excludes.
warnings.filterwarnings("ignore", "BlockingConnection is deprecated")

# The other script repeats the lines down to connect(), as it may run elsewhere.
QUEUE = "orders"
DEAD_LETTER_QUEUE = "orders.dead"  # keeps the messages that are rejected
DEFAULT_EXCHANGE = ""  # delivers a message to the queue that its routing key names
QUEUES = {
    QUEUE: {
        "x-queue-type": "quorum",  # on disk; in a cluster, on two disks or more
        "x-dead-letter-exchange": DEFAULT_EXCHANGE,  # where rejected messages go
        "x-dead-letter-routing-key": DEAD_LETTER_QUEUE,
        "x-dead-letter-strategy": "at-least-once",  # none is lost on the way
        "x-overflow": "reject-publish",  # required by at-least-once
        "x-delivery-limit": 19,  # at most 20 deliveries, then rejected
    },
    # In effect no limit: by default, a message put back over 20 times is deleted.
    DEAD_LETTER_QUEUE: {"x-queue-type": "quorum", "x-delivery-limit": 2_000_000_000},
}
# Trying again does not help if an error contains one of these words.
PERMANENT = ("ACCESS_REFUSED", "LOCKED", "inequivalent", "CERTIFICATE", "not found")


def parse_order(body: bytes) -> dict:
    """Return the order in a message. Raise an exception if there is no valid one."""
    # "sig": with or without Windows' byte order mark. Decimal keeps 10.10 exact.
    order = json.loads(body.decode("utf-8-sig"), parse_float=Decimal)
    if not isinstance(order, dict):
        raise ValueError("an order must be a JSON object")
    for field in ("order_id", "customer", "status"):
        if not isinstance(order.get(field), str) or not order[field].strip():
            raise ValueError(f"{field} must be given, as a string that is not blank")
    # type(), since isinstance(True, int) is true.
    if type(order.get("amount")) not in (int, Decimal) or order["amount"] <= 0:
        raise ValueError("amount must be given, as a number greater than 0")
    return order


def amqp_nodes() -> list:
    """Return the RabbitMQ nodes in AMQP_URL, split at commas. Exit if invalid."""
    urls = os.environ.get("AMQP_URL") or "amqp://guest:guest@localhost:5672"
    nodes = []
    for url in urls.split(","):
        try:
            if not url.startswith(("amqp://", "amqps://")):
                raise ValueError
            nodes.append(pika.URLParameters(url))
        except Exception:  # the error may contain the password
            sys.exit("AMQP_URL must look like amqp://USER:PASSWORD@HOST:5672/VHOST")
        nodes[-1].blocked_connection_timeout = 30  # seconds RabbitMQ may block us
    return nodes


def connect() -> pika.BlockingConnection:
    """Connect, and create missing queues. Raise AMQPError if that fails."""
    nodes = amqp_nodes()
    try:
        connection = pika.BlockingConnection(nodes)  # to the first that answers
        channel = connection.channel()  # commands go over a channel
        for queue, arguments in QUEUES.items():  # durable: they outlive a restart
            channel.queue_declare(queue, durable=True, arguments=arguments)
        return connection
    except Exception as error:
        text = str(error) or repr(error)
        if "ConnectionRefusedError" in text:  # pika wraps it
            text = "Connection refused. Is it running? docker-compose up -d"
        where = ", ".join(f"{n.credentials.username}@{n.host}:{n.port}" for n in nodes)
        raise AMQPError(f"RabbitMQ at {where}: {text}") from error


processing_time = 2.0  # seconds
stop = threading.Event()  # set by Ctrl-C or SIGTERM


def process_order(order: dict) -> None:
    """Do the work for an order. Put your own code here.

    An order can come twice: look first whether it is done. Amounts are int or Decimal.
    """
    time.sleep(processing_time)


def process_message(body: bytes, redelivered: bool) -> str:
    """Process the order in a message. Return its order_id, or "" if that fails."""
    try:
        order = parse_order(body)
    except Exception as error:
        logging.error(f"Rejected to {DEAD_LETTER_QUEUE}: {error}")
        return ""
    order_id = repr(order["order_id"])[1:-1]  # with control characters escaped
    mark = " (redelivered)" if redelivered else ""
    logging.info(f"Received {order_id}{mark}: {order['customer']!r}, {order['amount']}")
    try:
        process_order(order)
    except BaseException:  # it may call sys.exit()
        logging.exception(f"Rejected to {DEAD_LETTER_QUEUE}: {order_id}")
        return ""
    return order_id


def handle(worker: Any, channel: Any, delivery: Any, _: Any, body: bytes) -> str:
    """Have a message processed, then acknowledge or reject it. Return the order_id."""
    work = worker.submit(process_message, body, delivery.redelivered)  # in a thread
    while not work.done():
        futures.wait([work], timeout=0.2)
        channel.connection.process_data_events()  # heartbeats: we are alive
    order_id: str = work.result()
    if not channel.consumer_tags:  # cancelled: queue deleted, or no ack for 30 minutes
        logging.error(f"RabbitMQ has taken {order_id or 'a message'} back")
        return ""
    if stop.is_set():
        # Cancel first, or RabbitMQ delivers the next order. Acknowledging still works.
        channel.stop_consuming()
    if order_id:
        # Now RabbitMQ deletes the order. Without this, it would deliver it again.
        channel.basic_ack(delivery.delivery_tag)
    else:
        # Now RabbitMQ moves it to DEAD_LETTER_QUEUE.
        channel.basic_reject(delivery.delivery_tag, requeue=False)
    return order_id


def consume(channel: Any, worker: Any) -> None:
    """Handle one message after the other."""
    messages: list = []  # handled below: a callback would not see a cancellation
    channel.basic_qos(prefetch_count=1)  # one unacknowledged at a time
    channel.basic_consume(QUEUE, lambda *message: messages.append(message))
    logging.info("Waiting for orders. Ctrl-C: stop after the order in hand; twice: now")
    count, start = 0, 0.0  # since the queue was last empty
    while channel.consumer_tags:  # until the consumer is cancelled
        channel.connection.process_data_events(time_limit=0.5)  # runs the callback
        if messages:
            start = start or time.monotonic()
            order_id = handle(worker, *messages.pop())
            if order_id:
                count += 1
                orders = "order" if count == 1 else "orders"
                total = f"{count} {orders} in {time.monotonic() - start:.2f} s"
                logging.info(f"Processed {order_id} ({total})")
        elif stop.is_set():
            channel.stop_consuming()
        else:
            count, start = 0, 0.0
    if not stop.is_set():
        raise AMQPError("RabbitMQ has cancelled the consumer")


def on_signal(number: int, frame: Any) -> None:
    stop.set()
    signal.signal(number, signal.SIG_DFL)  # a second one kills


def main() -> None:
    global processing_time
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processing-time", type=float, default=2, help="seconds")
    processing_time = parser.parse_args().processing_time
    if not 0 <= processing_time <= 86_400:
        parser.error("--processing-time must be 0 to 86400")
    logging.basicConfig(format="%(asctime)s %(message).500s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # we log its errors
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    told: set = set()  # errors of this outage
    while not stop.is_set():
        try:
            # On an error, "with" waits for the worker: never two orders at once.
            with connect() as connection, futures.ThreadPoolExecutor(1) as worker:
                told.clear()
                consume(connection.channel(), worker)
        except AMQPError as error:
            if any(word in str(error) for word in PERMANENT):
                sys.exit(str(error))
            if str(error) not in told:
                logging.warning(f"{error}; trying again every second")
            told.add(str(error))
            time.sleep(1)
    logging.info("Stopped")


if __name__ == "__main__":
    main()
