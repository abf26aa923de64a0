"""Publish five orders to RabbitMQ's queue "orders": python3 producer.py"""

import json
import logging
import os
import signal
import sys

import pika

# For another RabbitMQ, set the environment variable AMQP_URL: amqp://user:password@host:port
RABBITMQ = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672"))
# RabbitMQ may still be starting: so pika tries up to ten times before it raises an exception.
RABBITMQ.connection_attempts = 10
RABBITMQ.retry_delay = 3  # seconds
# While RabbitMQ has too little memory or disk space, basic_publish() waits. After a minute, it
# raises an exception. (Without this setting, it could wait for ever.)
RABBITMQ.blocked_connection_timeout = 60  # seconds
QUEUE = "orders"
ORDERS = [
    {"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"},
    {"order_id": "ORD-002", "customer": "Анна Ким", "amount": 1249.5, "status": "pending"},
    {"order_id": "ORD-003", "customer": "John Smith", "amount": 320, "status": "pending"},
    {"order_id": "ORD-004", "customer": "Пётр Орлов", "amount": 7800, "status": "pending"},
    {"order_id": "ORD-005", "customer": "Emma Brown", "amount": 150, "status": "pending"},
]


def publish(orders: list) -> None:
    """Publish the orders. When publish() returns, RabbitMQ has confirmed all of them.

    After an exception, the log (level INFO) shows which orders are confirmed. RabbitMQ may store
    the next order, too, now or later. The rest were not sent. A second call publishes all again.
    """
    logging.info(f"Connecting to RabbitMQ at {RABBITMQ.host}:{RABBITMQ.port} (it may be starting)")
    with pika.BlockingConnection(RABBITMQ) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        # Switch on confirmations: now basic_publish() waits until RabbitMQ confirms the order.
        # It raises an exception if RabbitMQ refuses the order, or if the connection breaks.
        channel.confirm_delivery()
        for order in orders:
            body = json.dumps(order, ensure_ascii=False)  # "Иван", not "\u0418..."
            channel.basic_publish(
                exchange="",
                routing_key=QUEUE,
                body=body,
                # 2 is persistent: in a durable queue, the order survives a restart of RabbitMQ.
                properties=pika.BasicProperties(delivery_mode=2),
                # Raise an exception if the queue has been deleted meanwhile. (Without this,
                # RabbitMQ would drop the order without an error, and even confirm it.)
                mandatory=True,
            )
            logging.info(f"RabbitMQ confirmed {body}")


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # hide pika's log: only the last error is shown
    # Let Ctrl-C (SIGINT) end the program at once: closing the connection first could take minutes.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        publish(ORDERS)
    except (pika.exceptions.AMQPError, OSError) as error:
        # AMQPError: e.g. RabbitMQ is down, or refuses an order. OSError: e.g. unknown host.
        logging.error(f"Failed: {error!r}")  # !r shows the class of the error, too
        sys.exit(1)


if __name__ == "__main__":
    main()
