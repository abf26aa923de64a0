"""Publish orders to RabbitMQ's queue "orders".

    python3 producer.py         five sample orders
    python3 producer.py FILE    the orders in a file, one JSON object a line

The environment variable AMQP_URL says where RabbitMQ is. If the connection breaks
before an order is confirmed, it is sent again, so it may be stored more than once.
"""

import argparse
import json
import logging
import os
import signal
import sys
import time
from collections import deque
from decimal import Decimal
from typing import NamedTuple, Optional

import pika

# From here to the end of parse_order(), both scripts must have the same lines.
RABBITMQ = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost"))
QUEUE = "orders"
# Dead letters go to this queue: messages that are not valid orders, and orders that
# failed too often (the work raised an exception, or the consumer disconnected).
DEAD_LETTER_QUEUE = "orders.dead"  # consumer.py creates it
QUEUE_ARGUMENTS = {
    "x-queue-type": "quorum",  # needed for the limit below; replicated in a cluster
    "x-delivery-limit": 20,  # 20 retries, then it is a dead letter
    "x-dead-letter-exchange": "",  # default exchange: routing key = queue name
    "x-dead-letter-routing-key": DEAD_LETTER_QUEUE,
    "x-dead-letter-strategy": "at-least-once",  # no dead letter is lost on its way
    "x-overflow": "reject-publish",  # at-least-once needs it; no length limit set
}


def parse_order(body: bytes) -> dict:
    """Return the order in a message. Raise an exception if it is invalid."""
    # Decimal keeps 10.10 exact. With int, true would pass: Python's True is an int.
    order: dict = json.loads(body.decode(), parse_int=Decimal, parse_float=Decimal)
    for field in ("order_id", "customer", "status"):
        if not isinstance(order.get(field), str) or not order[field].strip():
            raise ValueError(f"{field} must be a string, and not blank")
    if not isinstance(order.get("amount"), Decimal) or order["amount"] <= 0:
        raise ValueError("amount must be a number above 0")
    return order


# delivery_mode=2: the message survives a restart, as its queue is durable.
PROPERTIES = pika.BasicProperties(content_type="application/json", delivery_mode=2)
ATTEMPTS = 30  # failures in a row, at one order, before giving up
SAMPLES = [
    dict(order_id="ORD-001", customer="Иван Иванов", amount=5000, status="pending"),
    dict(order_id="ORD-002", customer="Анна Ким", amount=1249.50, status="pending"),
    dict(order_id="ORD-003", customer="John Smith", amount=320, status="pending"),
    dict(order_id="ORD-004", customer="Пётр Орлов", amount=7800, status="pending"),
    dict(order_id="ORD-005", customer="Emma Brown", amount=150, status="pending"),
]


class Order(NamedTuple):
    line_number: int
    order_id: str
    body: bytes


def read_orders(file: Optional[str]) -> deque:
    """Return the orders in a file, or the samples. End the program if one is bad."""
    if file is None:
        # ensure_ascii=False: "Иван", not "\u0418..."
        lines = [json.dumps(order, ensure_ascii=False).encode() for order in SAMPLES]
    else:
        with open(file, "rb") as stream:
            lines = stream.readlines()
    orders: deque = deque()  # a list with a fast popleft()
    for number, line in enumerate(lines, start=1):
        try:
            order_id = parse_order(line)["order_id"]
        except Exception as error:
            sys.exit(f"Nothing was sent. {file}, line {number}: {error}")
        orders.append(Order(number, order_id, line.strip()))
    return orders


def publish(orders: deque) -> None:
    """Publish the orders in turn. An order leaves the deque once it is confirmed.

    Raises an exception if anything fails; call it again to go on with what is left.
    """
    with pika.BlockingConnection(RABBITMQ) as connection:
        channel = connection.channel()
        # Creates the queue if missing; fails if it exists with other arguments.
        channel.queue_declare(QUEUE, durable=True, arguments=QUEUE_ARGUMENTS)
        # From now on basic_publish() waits until RabbitMQ confirms that it has stored
        # the order, and raises an exception if RabbitMQ refuses it.
        channel.confirm_delivery()
        while orders:
            order = orders[0]
            # mandatory: refuse the order if its queue has been deleted. Without it
            # RabbitMQ would confirm the order, and drop it.
            channel.basic_publish("", QUEUE, order.body, PROPERTIES, mandatory=True)
            orders.popleft()
            logging.info(f"Stored {order.order_id!r} (line {order.line_number})")


def main() -> None:
    # Ctrl-C: end at once (the system's default), without Python's traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parser = argparse.ArgumentParser()
    parser.add_argument("FILE", nargs="?", help="orders, one JSON object a line")
    file = parser.parse_args().FILE
    logging.basicConfig(format="%(asctime)s %(message)s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # we log its exceptions
    try:
        orders = read_orders(file)
    except OSError as error:
        sys.exit(f"Nothing was sent. {error}")
    logging.info(f"Publishing {len(orders)} orders to {RABBITMQ.host}:{RABBITMQ.port}")
    failures = 0  # in a row, at one order
    while orders:
        left = len(orders)
        try:
            publish(orders)
        except Exception as error:  # AMQPError, socket errors and others
            logging.error(repr(error))
            if len(orders) < left:  # some were stored
                failures = 0
            failures += 1
            if failures == ATTEMPTS:
                sys.exit(f"Giving up at line {orders[0].line_number}")
            time.sleep(1)


if __name__ == "__main__":
    main()
