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
ORDERS = [
    {"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"},
    {"order_id": "ORD-002", "customer": "Анна Ким", "amount": 1249.5, "status": "pending"},
    {"order_id": "ORD-003", "customer": "John Smith", "amount": 320, "status": "pending"},
    {"order_id": "ORD-004", "customer": "Пётр Орлов", "amount": 7800, "status": "pending"},
    {"order_id": "ORD-005", "customer": "Emma Brown", "amount": 150, "status": "pending"},
]


def publish(orders: list) -> None:
    """Publish the orders. Remove each from the list as soon as RabbitMQ has confirmed it.

    After an exception, call publish() again with the same list: it holds what is not confirmed.
    An order can be stored twice, if the connection breaks before the confirmation arrives. While
    RabbitMQ has too little memory or disk space, publish() waits, and logs nothing.
    """
    with pika.BlockingConnection(RABBITMQ) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        # Switch on confirmations: now basic_publish() waits until RabbitMQ has confirmed the order.
        # It raises an exception if RabbitMQ refuses the order, or if the connection breaks.
        channel.confirm_delivery()
        while orders:
            order = orders[0]
            channel.basic_publish(
                exchange="",
                routing_key=QUEUE,
                body=json.dumps(order, ensure_ascii=False),  # "Иван", not "\u0418..."
                # 2 is persistent: in a durable queue, the order survives a restart of RabbitMQ.
                properties=pika.BasicProperties(delivery_mode=2),
                # If somebody has deleted the queue, RabbitMQ drops the order, but confirms it.
                # mandatory=True turns this into an exception.
                mandatory=True,
            )
            orders.pop(0)
            logging.info(f"Stored {order['order_id']}")


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # pika would log the same errors again
    # Let the operating system end the program at Ctrl-C (SIG_DFL). With Python's KeyboardInterrupt,
    # the `with` would first close the connection, and wait for an answer that may never come.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    unconfirmed = ORDERS.copy()  # publish() empties this list
    while unconfirmed:
        try:
            publish(unconfirmed)
        except (pika.exceptions.AMQPError, OSError) as error:
            # From RabbitMQ, or from the network (an unknown host). !r adds the error's name.
            logging.error(f"RabbitMQ at {RABBITMQ.host}:{RABBITMQ.port}: {error!r}")
            time.sleep(1)
        except Exception:  # anything else, e.g. RabbitMQ does not answer, or we made a mistake
            logging.exception("Trying again")  # adds the traceback
            time.sleep(1)


if __name__ == "__main__":
    main()
