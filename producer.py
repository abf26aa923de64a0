"""python3 producer.py publishes five orders to RabbitMQ's queue "orders".

The environment variable AMQP_URL says where RabbitMQ is. If the connection breaks,
this sends the unconfirmed orders again, so RabbitMQ may store an order more than once.
"""

import argparse
import json
import logging
import os
import signal
import sys
import time

import pika

RABBITMQ = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost"))
# Keep this the same in both scripts. About the error PRECONDITION_FAILED see README.
QUEUE = "orders"
QUEUE_ARGUMENTS = {
    # RabbitMQ keeps a quorum queue on disk, and counts failed tries of the consumer.
    "x-queue-type": "quorum",
    # After the first try and 20 retries RabbitMQ moves the order to "orders.dead".
    "x-delivery-limit": 20,
    "x-dead-letter-exchange": "",  # the default exchange: routing key = queue name
    "x-dead-letter-routing-key": "orders.dead",
    "x-dead-letter-strategy": "at-least-once",  # no order is lost on its way there
    "x-overflow": "reject-publish",  # at-least-once works only with this setting
}
# delivery_mode=2: persistent. Needed if somebody makes the queue a classic one.
PROPERTIES = pika.BasicProperties(content_type="application/json", delivery_mode=2)
ATTEMPTS = 30  # with a second between them: RabbitMQ needs some seconds to start
ORDERS = [
    dict(order_id="ORD-001", customer="Иван Иванов", amount=5000, status="pending"),
    dict(order_id="ORD-002", customer="Анна Ким", amount=1249.5, status="pending"),
    dict(order_id="ORD-003", customer="John Smith", amount=320, status="pending"),
    dict(order_id="ORD-004", customer="Пётр Орлов", amount=7800, status="pending"),
    dict(order_id="ORD-005", customer="Emma Brown", amount=150, status="pending"),
]


def publish(orders: list) -> None:
    """Publish the orders one by one. Delete each from the list when it is stored.

    Raise an exception if anything fails. The list then has the unconfirmed orders.
    """
    with pika.BlockingConnection(RABBITMQ) as connection:
        channel = connection.channel()
        # Creates the queue if it is missing.
        channel.queue_declare(QUEUE, durable=True, arguments=QUEUE_ARGUMENTS)
        # From now on basic_publish() waits until RabbitMQ confirms that it has stored
        # the order. If RabbitMQ refuses the order, basic_publish() raises an exception.
        channel.confirm_delivery()
        while orders:
            order = orders[0]
            body = json.dumps(order, ensure_ascii=False)  # "Иван", not "\u0418..."
            # mandatory=True: if somebody has deleted the queue, we get an exception.
            # Without mandatory=True RabbitMQ would confirm the order, and drop it.
            channel.basic_publish("", QUEUE, body, PROPERTIES, mandatory=True)
            del orders[0]
            logging.info(f"Stored {order['order_id']!r}")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()  # only --help
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # otherwise pika logs errors, too
    # At Ctrl-C end at once, without Python's traceback (SIG_DFL: the system's default).
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    orders = list(ORDERS)
    logging.info(f"Publishing {len(orders)} orders to {RABBITMQ.host}:{RABBITMQ.port}")
    for _ in range(ATTEMPTS):
        try:
            publish(orders)
        except Exception as error:
            logging.error(repr(error))  # repr: some exceptions have no text
            time.sleep(1)
        if not orders:  # all are stored, even if closing the connection failed
            return
    ids = [order["order_id"] for order in orders]
    sys.exit(f"Not confirmed (RabbitMQ may have stored the first of these): {ids}")


if __name__ == "__main__":
    main()
