"""Publish five orders to RabbitMQ's queue "orders": python3 producer.py"""

import json
import logging
import os
import signal
import sys
import time

import pika

# For another RabbitMQ, set the environment variable AMQP_URL: amqp://user:password@host:port
RABBITMQ = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672"))
QUEUE = "orders"
PERSISTENT = pika.BasicProperties(delivery_mode=2)  # in a durable queue, it survives a restart
ATTEMPTS = 30  # with a second between them, because RabbitMQ needs some seconds to start
ORDERS = [
    {"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"},
    {"order_id": "ORD-002", "customer": "Анна Ким", "amount": 1249.5, "status": "pending"},
    {"order_id": "ORD-003", "customer": "John Smith", "amount": 320, "status": "pending"},
    {"order_id": "ORD-004", "customer": "Пётр Орлов", "amount": 7800, "status": "pending"},
    {"order_id": "ORD-005", "customer": "Emma Brown", "amount": 150, "status": "pending"},
]


def publish(orders: list) -> None:
    """Publish the orders. Remove each from the list as soon as RabbitMQ has confirmed it.

    After an exception, the orders that are not confirmed are still in the list: call publish()
    again with the same list. RabbitMQ may have stored the first of them already, if only its
    confirmation was lost. Then it is stored twice.
    """
    with pika.BlockingConnection(RABBITMQ) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        # From now on basic_publish() waits until RabbitMQ has confirmed the order. It raises an
        # exception if RabbitMQ refuses the order.
        channel.confirm_delivery()
        while orders:
            order_id = orders[0]["order_id"]
            channel.basic_publish(
                exchange="",
                routing_key=QUEUE,
                body=json.dumps(orders[0], ensure_ascii=False),  # "Иван", not "\u0418..."
                properties=PERSISTENT,
                # If somebody has just deleted the queue, raise an exception. Without this,
                # RabbitMQ would drop the order, but still confirm it.
                mandatory=True,
            )
            orders.pop(0)
            logging.info(f"Stored {order_id!r}")


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # we log pika's exceptions ourselves
    # Ctrl-C (SIGINT) just ends the program (SIG_DFL). Otherwise Python would show a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    unconfirmed = ORDERS.copy()  # publish() empties this list
    for attempt in range(1, ATTEMPTS + 1):
        try:
            publish(unconfirmed)
        except Exception as error:  # pika raises many kinds
            where = f"RabbitMQ at {RABBITMQ.host}:{RABBITMQ.port}, attempt {attempt} of {ATTEMPTS}"
            logging.error(f"Cannot publish ({where}): {error!r}")
            time.sleep(1)
        if not unconfirmed:  # an error now came only from closing the connection
            return
    logging.error(f"Not confirmed: {unconfirmed}")
    sys.exit(1)


if __name__ == "__main__":
    main()
