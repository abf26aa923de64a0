"""Publish five orders to RabbitMQ's queue "orders": python3 producer.py"""

import json
import logging
import os
import signal
import time

import pika

RABBITMQ = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672"))
QUEUE = "orders"
PERSISTENT = pika.BasicProperties(content_type="application/json", delivery_mode=2)
ATTEMPTS = 30  # with a second between them: RabbitMQ needs some seconds to start
ORDERS = [
    {"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"},
    {"order_id": "ORD-002", "customer": "Анна Ким", "amount": 1249.5, "status": "pending"},
    {"order_id": "ORD-003", "customer": "John Smith", "amount": 320, "status": "pending"},
    {"order_id": "ORD-004", "customer": "Пётр Орлов", "amount": 7800, "status": "pending"},
    {"order_id": "ORD-005", "customer": "Emma Brown", "amount": 150, "status": "pending"},
]


def publish(orders: list) -> None:
    """Publish the orders. Remove each from the list when RabbitMQ has stored it.

    After an exception the list has those that are not confirmed; the first may be stored.
    """
    with pika.BlockingConnection(RABBITMQ) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        # From now on basic_publish() waits until RabbitMQ confirms that the order is stored.
        channel.confirm_delivery()
        while orders:
            channel.basic_publish(
                exchange="",
                routing_key=QUEUE,
                body=json.dumps(orders[0], ensure_ascii=False),  # "Иван", not "\u0418..."
                properties=PERSISTENT,
                mandatory=True,  # an exception if there is no such queue, not a lost order
            )
            order = orders.pop(0)
            logging.info(f"Stored {order['order_id']!r}")


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # we log all errors
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
    orders = list(ORDERS)  # publish() empties this copy
    for attempt in range(1, ATTEMPTS + 1):
        try:
            publish(orders)
        except Exception as error:
            where = f"RabbitMQ at {RABBITMQ.host}:{RABBITMQ.port}"
            logging.error(f"{where}, attempt {attempt} of {ATTEMPTS}: {error!r}")
            time.sleep(1)
        if not orders:  # all are stored, even if closing the connection has failed
            return
    raise SystemExit(f"Not confirmed: {[order['order_id'] for order in orders]}")


if __name__ == "__main__":
    main()
