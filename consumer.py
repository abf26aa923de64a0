"""python3 consumer.py processes the orders in RabbitMQ's queue "orders", one by one.

At Ctrl-C it finishes its current work and stops. AMQP_URL says where RabbitMQ is.
"""

import argparse
import json
import logging
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic

RETRY_DELAY = 10  # whole seconds to wait after process_order() has failed
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
worker = ThreadPoolExecutor(max_workers=1)  # one thread: one job at a time
stopping = False


def stop(signal_number: int, frame: object) -> None:
    """Ask the program to end. Python calls this at Ctrl-C, and at `kill`."""
    global stopping
    stopping = True
    signal.signal(signal_number, signal.SIG_DFL)  # a second Ctrl-C kills the program


def parse_order(body: bytes) -> dict:
    """Return the order in a message. Raise an exception if the order is invalid."""
    order = json.loads(body.decode())
    if not isinstance(order, dict):
        raise ValueError("not a JSON object")
    for field in ("order_id", "customer", "status"):
        if not isinstance(order.get(field), str) or not order[field].strip():
            raise ValueError(f"{field} must be a string, and not blank")
        order[field].encode()  # fails at text that most databases refuse: "\ud800"
    amount = order.get("amount", 0)  # it can be true, NaN or absurd, such as 1e999
    if type(amount) not in (int, float) or not 0 < amount < 1e15:
        raise ValueError("amount must be a number above 0 and below 1e15")
    return order


def process_order(order: dict) -> None:
    """Write your own code here, but no async function: that would not run.

    Raise an exception if the work fails: then the order comes again. An order can also
    come twice, for example to another consumer after 30 minutes of work: let a unique
    key on order_id refuse the second result (README: Once only).
    """
    time.sleep(2)


def try_order(order: dict) -> bool:
    """Call process_order(). Return True if it succeeds. If not, wait, return False."""
    try:
        process_order(order)
        return True
    except BaseException:  # sys.exit() is a failure, too
        logging.exception("The work failed")
    for _ in range(RETRY_DELAY):
        if not stopping:
            time.sleep(1)
    return False


def handle(channel: BlockingChannel, method: Basic.Deliver, body: bytes) -> None:
    """Process the order in a message. Then acknowledge or reject the message."""
    try:
        order = parse_order(body)
    except (ValueError, RecursionError) as error:  # invalid, or very deep JSON
        channel.basic_reject(method.delivery_tag, requeue=False)  # to orders.dead
        logging.error(f"Rejected: {error}")
        return
    order_id = order["order_id"][:100]  # the log needs no megabytes
    again = " (redelivered)" if method.redelivered else ""
    logging.info(f"Received {order_id!r}{again}: {str(order)[:300]}")
    work = worker.submit(try_order, order)
    while not work.done():
        wait([work], timeout=0.5)
        # pika sends heartbeats ("I am alive") only inside its own functions. Without
        # heartbeats RabbitMQ would close the connection during long work.
        channel.connection.process_data_events()
    if stopping:
        # Ask for no more orders. Otherwise RabbitMQ sends one more after the ack. We
        # would leave it undone, and RabbitMQ would count a failed try.
        channel.cancel()
    if work.result():
        # The ack deletes the order. If we end before it, the order comes again.
        channel.basic_ack(method.delivery_tag)
        logging.info(f"Processed {order_id!r}")
    else:
        # The order comes again. No basic_nack() here: RabbitMQ 4.3 does not count that.
        channel.basic_reject(method.delivery_tag, requeue=True)


def consume_orders() -> None:
    """Handle messages until `stopping`. Raise an exception if the delivery ends."""
    with pika.BlockingConnection(RABBITMQ) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True, arguments=QUEUE_ARGUMENTS)
        # Without this limit, RabbitMQ 4 may delete a dead letter after 21 views of it.
        arguments = {"x-queue-type": "quorum", "x-delivery-limit": 2_000_000_000}
        channel.queue_declare("orders.dead", durable=True, arguments=arguments)
        # One unacknowledged order per consumer: a free consumer gets the next one.
        channel.basic_qos(prefetch_count=1)
        logging.info("Waiting for orders")
        # Unlike start_consuming(), this lets us look at `stopping` every 0.5 s.
        for method, _, body in channel.consume(QUEUE, inactivity_timeout=0.5):
            if method:  # None if no message came
                handle(channel, method, body)
            if stopping:
                return
    # We get here if the queue is deleted or, in RabbitMQ 4.3, work takes 30 minutes.
    raise RuntimeError("cancelled by RabbitMQ")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()  # only --help
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # otherwise pika logs errors, too
    signal.signal(signal.SIGINT, stop)  # Ctrl-C
    signal.signal(signal.SIGTERM, stop)  # kill, docker stop
    while not stopping:
        try:
            consume_orders()
        except Exception as error:
            logging.error(repr(error))
            # The worker may still be busy: this sleep waits its turn. Otherwise each
            # lost connection during long work could bring one more failed try.
            worker.submit(time.sleep, 1).result()
    logging.info("Stopped")


if __name__ == "__main__":
    main()
