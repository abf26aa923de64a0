"""Publish five orders to RabbitMQ's queue "orders": python3 producer.py"""

import json
import logging
import os
import signal
import time

import pika

# For another RabbitMQ, set the environment variable AMQP_URL: amqp://user:password@host:port
RABBITMQ = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672"))
QUEUE = "orders"
# In a durable queue, a persistent message (delivery_mode=2) survives a restart of RabbitMQ.
PERSISTENT = pika.BasicProperties(delivery_mode=2)
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
    again with the same list. If the connection breaks before a confirmation comes, RabbitMQ may
    have stored the order already: then the next call stores it a second time.
    """
    with pika.BlockingConnection(RABBITMQ) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        # From now on basic_publish() waits until RabbitMQ has confirmed the order. It raises an
        # exception if RabbitMQ refuses the order, or if the connection breaks.
        channel.confirm_delivery()
        while orders:
            order = orders[0]
            order_id = order["order_id"]
            channel.basic_publish(
                exchange="",
                routing_key=QUEUE,
                body=json.dumps(order, ensure_ascii=False),  # "Иван", not "\u0418..."
                properties=PERSISTENT,
                # If somebody has just deleted the queue, RabbitMQ drops the order, and confirms it.
                # With mandatory it also returns the order: basic_publish() raises an exception.
                mandatory=True,
            )
            orders.pop(0)
            logging.info(f"Stored {order_id}")


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # it would log the same errors again
    # Let Ctrl-C end the program at once. Without this line, it would first close the connection,
    # which can hang: RabbitMQ must answer.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    unconfirmed = ORDERS.copy()  # publish() empties this list
    while unconfirmed:
        try:
            publish(unconfirmed)
        except (pika.exceptions.AMQPError, OSError) as error:  # most of pika's errors; unknown host
            logging.error(f"RabbitMQ at {RABBITMQ.host}:{RABBITMQ.port}: {error!r}")
            time.sleep(1)
        except Exception:  # whatever else happens, perhaps by our own mistake: keep running
            logging.exception("Trying again")  # adds the traceback
            time.sleep(1)


if __name__ == "__main__":
    main()
