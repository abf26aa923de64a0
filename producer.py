"""Publish orders to RabbitMQ's queue "orders".

    python3 producer.py         five sample orders
    python3 producer.py FILE    the orders in a file, one JSON object a line

The environment variable AMQP_URL says where RabbitMQ is.
"""

import argparse
import json
import logging
import os
import signal
import sys
import time
from collections import Counter, deque
from decimal import Decimal
from typing import Deque, NamedTuple, Optional

import pika

# Keep all down to parse_order() identical in both scripts.
RABBITMQ = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost"))
QUEUE = "orders"
# RabbitMQ moves rejected messages ("dead letters") here, and those that failed too
# often, for you to look at. Only consumer.py declares this queue.
DEAD_LETTER_QUEUE = "orders.dead"
QUEUE_ARGUMENTS = {
    "x-queue-type": "quorum",  # on disk, and copied across a cluster
    "x-delivery-limit": 20,  # RabbitMQ 4's default: the 21st failure ends there
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": DEAD_LETTER_QUEUE,
    "x-dead-letter-strategy": "at-least-once",  # kept here until it is confirmed there
    "x-overflow": "reject-publish",  # at-least-once demands this setting
}


def parse_order(body: bytes) -> dict:
    """Return the order in a message. Raise an exception if it is invalid."""
    # Decimal keeps 10.10 exact. As an int, true would pass for an amount.
    order: dict = json.loads(body.decode(), parse_int=Decimal, parse_float=Decimal)
    for field in ("order_id", "customer", "status"):
        if not isinstance(order.get(field), str) or not order[field].strip():
            raise ValueError(f"{field} must be a string, and not blank")
    if not isinstance(order.get("amount"), Decimal) or order["amount"] <= 0:
        raise ValueError("amount must be a number above 0")
    return order


# delivery_mode=2: persistent. Only a classic queue needs it; ours is on disk anyway.
PROPERTIES = pika.BasicProperties(content_type="application/json", delivery_mode=2)
ATTEMPTS = 30  # to store one order, before giving up
SAMPLES = [
    dict(order_id="ORD-001", customer="Иван Иванов", amount=5000, status="pending"),
    dict(order_id="ORD-002", customer="Анна Ким", amount=1249.50, status="pending"),
    dict(order_id="ORD-003", customer="John Smith", amount=320, status="pending"),
    dict(order_id="ORD-004", customer="Пётр Орлов", amount=7800, status="pending"),
    dict(order_id="ORD-005", customer="Emma Brown", amount=150, status="pending"),
]


class Order(NamedTuple):
    line: int
    order_id: str
    body: bytes


def read_orders(file: Optional[str]) -> Deque[Order]:
    """Return the orders in a file, or the samples. Raise an exception if one is bad."""
    if file is None:
        lines = [json.dumps(order, ensure_ascii=False).encode() for order in SAMPLES]
    else:
        with open(file, "rb") as stream:
            lines = stream.readlines()
    orders: Deque[Order] = deque()
    for number, line in enumerate(lines, start=1):
        try:
            order_id = parse_order(line)["order_id"]
        except Exception as error:
            raise ValueError(f"line {number}: {error}") from error
        orders.append(Order(number, order_id, line.strip()))
    return orders


def publish(orders: Deque[Order]) -> None:
    """Publish the orders in turn. An order leaves the deque once it is confirmed.

    Raises an exception if anything fails. Call again to go on from the order that
    failed; if only its confirmation was lost, RabbitMQ then stores it once more.
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
            # mandatory: raise an exception if the queue has been deleted.
            channel.basic_publish("", QUEUE, order.body, PROPERTIES, mandatory=True)
            orders.popleft()
            logging.info(f"Stored {order.order_id!r} (line {order.line})")


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C: end without a traceback
    parser = argparse.ArgumentParser()
    parser.add_argument("FILE", nargs="?", help="orders, one JSON object a line")
    file = parser.parse_args().FILE
    logging.basicConfig(format="%(asctime)s %(message)s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # we log its exceptions
    try:
        orders = read_orders(file)
    except Exception as error:
        sys.exit(f"Nothing was sent. {file}: {error}")
    logging.info(f"Publishing {len(orders)} orders to {RABBITMQ.host}:{RABBITMQ.port}")
    failures: Counter = Counter()  # at the same order: by the number left
    while orders:
        try:
            publish(orders)
        except Exception as error:  # pika raises more than AMQPError
            logging.error(repr(error))
            failures[len(orders)] += 1
            if failures[len(orders)] == ATTEMPTS:
                sys.exit(f"Giving up at line {orders[0].line}")
            time.sleep(1)


if __name__ == "__main__":
    main()
