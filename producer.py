"""Publish five orders to RabbitMQ's queue "orders": python3 producer.py"""

import json
import logging
import os
import signal
import sys
import time

import pika

RABBITMQ = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672"))
QUEUE = "orders"
PERSISTENT = pika.BasicProperties(delivery_mode=2)  # in a durable queue, it survives a restart
ATTEMPTS = 30  # RabbitMQ needs some seconds to start. After each failure we wait a second.
ORDERS = [
    {"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"},
    {"order_id": "ORD-002", "customer": "Анна Ким", "amount": 1249.5, "status": "pending"},
    {"order_id": "ORD-003", "customer": "John Smith", "amount": 320, "status": "pending"},
    {"order_id": "ORD-004", "customer": "Пётр Орлов", "amount": 7800, "status": "pending"},
    {"order_id": "ORD-005", "customer": "Emma Brown", "amount": 150, "status": "pending"},
]


def publish(orders: list) -> None:
    """Publish the orders. Remove each from the list when RabbitMQ has confirmed it.

    After an exception the list has the orders that are not confirmed. Perhaps the first of them
    is stored, and only its confirmation was lost: then publishing it again stores it twice.
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
                # Without ensure_ascii=False RabbitMQ's web page shows "\u0418..." for "Иван".
                body=json.dumps(orders[0], ensure_ascii=False),
                properties=PERSISTENT,
                # Raise an exception if somebody has just deleted the queue. RabbitMQ confirms
                # even an order that it could not put into a queue.
                mandatory=True,
            )
            orders.pop(0)
            logging.info(f"Stored {order_id}")


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # we log pika's exceptions ourselves
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C: no KeyboardInterrupt, no traceback
    orders = ORDERS.copy()  # publish() empties this list
    for attempt in range(1, ATTEMPTS + 1):
        try:
            publish(orders)
        except Exception as error:  # pika raises many kinds
            where = f"{RABBITMQ.host}:{RABBITMQ.port} (attempt {attempt} of {ATTEMPTS})"
            logging.error(f"Cannot publish to RabbitMQ at {where}: {repr(error)}")
            time.sleep(1)
        # Closing the connection can fail although all orders are confirmed.
        if not orders:
            return
    logging.error(f"Not confirmed: {[order['order_id'] for order in orders]}")
    sys.exit(1)


if __name__ == "__main__":
    main()
