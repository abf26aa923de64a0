"""Process the orders in RabbitMQ's queue "orders", one at a time: python3 consumer.py

Environment: AMQP_URL, PROCESSING_TIME (seconds).
"""

import json
import logging
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor, wait
from decimal import Decimal

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic

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


PROCESSING_TIME = float(os.environ.get("PROCESSING_TIME", "2"))
stopping = False  # see stop()


def process_order(order: dict) -> None:
    """Put your own code here; raise an exception if it fails.

    An order can come twice: first check whether it is done.
    """
    time.sleep(PROCESSING_TIME)


def process_in_thread(order: dict, connection: pika.BlockingConnection) -> None:
    """Process an order in a thread. Raise RuntimeError if the work fails.

    The main thread sends heartbeats ("still alive"), or RabbitMQ hangs up. Only that
    thread uses the connection: pika is not thread-safe.
    """
    with ThreadPoolExecutor() as executor:  # waits for the work
        work = executor.submit(process_order, order)
        while not work.done():
            wait([work], timeout=0.5)
            connection.process_data_events()  # sends heartbeats
    if work.exception() is not None:
        logging.error("The work failed", exc_info=work.exception())
        # consume() then disconnects: RabbitMQ redelivers the order or dead-letters it.
        raise RuntimeError("an order failed")


def handle(channel: BlockingChannel, method: Basic.Deliver, body: bytes) -> None:
    """Process the order in a message, then acknowledge it. Reject an invalid one."""
    try:
        order = parse_order(body)
    except Exception as error:
        channel.basic_reject(method.delivery_tag, requeue=False)
        logging.error(f"Rejected: {error}")
        return
    again = " (redelivered)" if method.redelivered else ""
    order_id = order["order_id"]
    logging.info(f"Received {order_id!r}{again}: {order['customer']!r}")
    process_in_thread(order, channel.connection)
    if stopping:
        # Ends consume()'s loop. First, as the acknowledgement brings another order.
        channel.cancel()
    # RabbitMQ now deletes the order. Unacknowledged, it returns if we disconnect.
    channel.basic_ack(method.delivery_tag)
    logging.info(f"Processed {order_id!r}")


def consume() -> None:
    """Handle messages until told to stop. Raise an exception if anything fails."""
    with pika.BlockingConnection(RABBITMQ) as connection:
        channel = connection.channel()
        # Creates the queue if missing; fails if it exists with other arguments.
        channel.queue_declare(QUEUE, durable=True, arguments=QUEUE_ARGUMENTS)
        # To look at a message may count as a failure. By default, 21 delete it.
        arguments = {"x-queue-type": "quorum", "x-delivery-limit": 2_000_000_000}
        channel.queue_declare(DEAD_LETTER_QUEUE, durable=True, arguments=arguments)
        # One unacknowledged order each: the next goes to whoever is free.
        channel.basic_qos(prefetch_count=1)
        logging.info("Waiting for orders")
        for method, _, body in channel.consume(QUEUE, inactivity_timeout=0.5):
            if method:
                handle(channel, method, body)
            elif stopping:  # no message came
                break
    if not stopping:
        raise RuntimeError("cancelled by RabbitMQ")


def stop(signal_number: int, frame: object) -> None:
    """Finish the order in hand, then stop. A second signal kills."""
    global stopping
    stopping = True
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # we log its exceptions
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    while not stopping:
        try:
            consume()
        except Exception as error:  # pika raises more than AMQPError
            logging.error(repr(error))
            time.sleep(1)
    logging.info("Stopped")


if __name__ == "__main__":
    main()
