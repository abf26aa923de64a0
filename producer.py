# For "uv run producer.py" and "pipx run producer.py" (PEP 723):
# /// script
# requires-python = ">=3.8"
# dependencies = ["pika>=1.3,<2"]
# ///
"""Publish orders to RabbitMQ's queue "orders".

    python3 producer.py         five sample orders
    python3 producer.py FILE    the orders in a file, one JSON object a line
    python3 producer.py -       the same from standard input

The environment variable AMQP_URL says where RabbitMQ is.
"""

import argparse
import json
import logging
import os
import signal
import sys
import time
import warnings
from collections import deque
from decimal import Decimal
from typing import Any, NamedTuple, Optional

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


PATIENCE = 30  # give up if no order was stored for so many seconds
PROPERTIES = pika.BasicProperties(
    content_type="application/json",
    delivery_mode=2,  # persistent: the message outlives a restart of RabbitMQ
)
SAMPLES = """\
{"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"}
{"order_id": "ORD-002", "customer": "Анна Ким", "amount": 1249.50, "status": "pending"}
{"order_id": "ORD-003", "customer": "John Smith", "amount": 320, "status": "pending"}
{"order_id": "ORD-004", "customer": "Пётр Орлов", "amount": 7800, "status": "pending"}
{"order_id": "ORD-005", "customer": "Emma Brown", "amount": 150, "status": "pending"}
"""


class Order(NamedTuple):
    place: str  # FILE:LINE
    number: int
    order_id: str
    body: bytes


def read_orders(file: Optional[str]) -> deque:
    """Return the orders in a file. Raise ValueError at the first invalid line."""
    text = SAMPLES.encode()
    if file is not None:
        with open(0 if file == "-" else file, "rb") as stream:  # 0: standard input
            text = stream.read()
    orders: deque = deque()
    for line_number, line in enumerate(text.split(b"\n"), start=1):
        if line.strip():
            place = f"{file or 'SAMPLES'}:{line_number}"
            try:
                order_id = parse_order(line)["order_id"]
            except Exception as error:
                raise ValueError(f"{place}: {error}") from error
            order_id = repr(order_id)[1:-1]  # with control characters escaped
            body = line.decode("utf-8-sig").strip().encode()  # no byte order mark
            orders.append(Order(place, len(orders) + 1, order_id, body))
    return orders


def publish(channel: Any, order: Order) -> None:
    """Publish an order, and wait until RabbitMQ confirms that it has stored it.

    Raises AMQPError if RabbitMQ refuses it, if the queue is gone (mandatory=True),
    or if the connection ends first; trying again may then store it twice.
    """
    channel.basic_publish(
        DEFAULT_EXCHANGE, QUEUE, order.body, PROPERTIES, mandatory=True
    )
    if order.number <= 20 or order.number % 1000 == 0:
        logging.info(f"Stored {order.order_id} (number {order.number})")


def publish_all(orders: deque) -> None:
    """Publish the orders in turn. An order leaves the deque when it is stored."""
    last_time = time.monotonic()  # when an order was stored, or the start
    told: set = set()  # errors of this outage
    while orders:
        try:
            with connect() as connection:
                channel = connection.channel()
                channel.confirm_delivery()  # makes basic_publish() wait
                while orders:
                    publish(channel, orders[0])
                    orders.popleft()
                    last_time = time.monotonic()
                    told.clear()
        except AMQPError as error:
            if not orders:
                return  # it only failed to close the connection
            if any(word in str(error) for word in PERMANENT):
                sys.exit(str(error))
            if time.monotonic() > last_time + PATIENCE:
                sys.exit(f"Giving up after {PATIENCE} s. {error}")
            if str(error) not in told:
                logging.warning(f"{error}; trying again")
            told.add(str(error))
            time.sleep(1)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C: end without a traceback
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("FILE", nargs="?")
    logging.basicConfig(format="%(asctime)s %(message).500s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # we log its errors
    try:
        orders = read_orders(parser.parse_args().FILE)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    total = len(orders)

    def report(signal_number: int = 0, frame: Any = None) -> None:
        result = f"{total - len(orders)} of {total} orders stored"
        if orders:
            result += f". The first not confirmed: {orders[0].place}"
        logging.info(result)
        if signal_number:
            os._exit(1)  # at once, even if RabbitMQ does not answer

    signal.signal(signal.SIGINT, report)  # Ctrl-C from now on
    try:
        publish_all(orders)
    finally:
        report()


if __name__ == "__main__":
    main()
