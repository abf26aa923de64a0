"""Process the orders in RabbitMQ's queue "orders", one at a time: python3 consumer.py

Ctrl-C finishes the current order, then stops; a second one kills. AMQP_URL says where
RabbitMQ is, PROCESSING_TIME how many seconds an order takes (environment variables).
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


PROCESSING_TIME = float(os.environ.get("PROCESSING_TIME", "2"))
worker = ThreadPoolExecutor(max_workers=1)  # for process_order()
stopping = False


def process_order(order: dict) -> None:
    """Put your own code here; raise an exception if it fails. It runs in a thread."""
    # An order can come twice: your code has to check whether it is done already.
    time.sleep(PROCESSING_TIME)


def process_in_thread(order: dict, connection: pika.BlockingConnection) -> bool:
    """Call process_order() in the worker thread. Return whether it succeeded."""
    # Meanwhile the main thread sends heartbeats ("still alive"): without them RabbitMQ
    # closes the connection. No other thread may use it: it is not thread-safe.
    work = worker.submit(process_order, order)
    try:
        while not work.done():
            wait([work], timeout=0.5)  # at most 0.5 s
            connection.process_data_events()  # sends heartbeats
    finally:
        # Wait even if disconnected: else we get the order again while its work runs.
        wait([work])
    if work.exception() is not None:
        logging.error("The work failed", exc_info=work.exception())  # with a traceback
        connection.sleep(1)  # with heartbeats; else 21 tries are over at once
    return work.exception() is None


def handle(channel: BlockingChannel, method: Basic.Deliver, body: bytes) -> None:
    """Process the order in a message, and acknowledge it. Reject what is no order."""
    try:
        order = parse_order(body)
    except Exception as error:
        channel.basic_reject(method.delivery_tag, requeue=False)  # dead-letter it
        logging.error(f"Rejected: {error}")
        return
    order_id = order["order_id"]
    again = " (redelivered)" if method.redelivered else ""
    logging.info(f"Received {order_id!r}{again}: {order['customer']!r}")
    succeeded = process_in_thread(order, channel.connection)
    if stopping:
        # Ask for no more orders; this one stays ours. Else the ack or reject below
        # brings the next, and our disconnecting counts as its failure.
        channel.cancel()
    if succeeded:
        # RabbitMQ may now delete the order. Unacknowledged, it would come again.
        channel.basic_ack(method.delivery_tag)
        logging.info(f"Processed {order_id!r}")
    else:
        channel.basic_reject(method.delivery_tag, requeue=True)  # it comes again


def consume_orders() -> None:
    """Handle messages until told to stop. Raise an exception if anything fails."""
    with pika.BlockingConnection(RABBITMQ) as connection:
        channel = connection.channel()
        # Creates the queue if missing; fails if it exists with other arguments.
        channel.queue_declare(QUEUE, durable=True, arguments=QUEUE_ARGUMENTS)
        # A huge limit: RabbitMQ 4's default may delete what you look at 21 times.
        arguments = {"x-queue-type": "quorum", "x-delivery-limit": 2_000_000_000}
        channel.queue_declare(DEAD_LETTER_QUEUE, durable=True, arguments=arguments)
        # One unacknowledged order per consumer: the next goes to whoever is free.
        channel.basic_qos(prefetch_count=1)
        logging.info("Waiting for orders")
        for method, _, body in channel.consume(QUEUE, inactivity_timeout=0.5):
            if method:  # None: no message for 0.5 s; check stopping
                handle(channel, method, body)
            if stopping:
                return
    # The loop ends if the queue is deleted or (RabbitMQ 4.3) an order takes too long.
    raise RuntimeError("cancelled by RabbitMQ")


def stop(signal_number: int, frame: object) -> None:
    """Finish the current order, then stop. (Python passes both arguments.)"""
    global stopping
    stopping = True
    # The next signal ends the program at once.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # we log its exceptions
    signal.signal(signal.SIGINT, stop)  # Ctrl-C
    signal.signal(signal.SIGTERM, stop)  # kill, docker stop
    while not stopping:
        try:
            consume_orders()
        except Exception as error:  # AMQPError, socket errors and others
            logging.error(repr(error))
            time.sleep(1)
    logging.info("Stopped")


if __name__ == "__main__":
    main()
