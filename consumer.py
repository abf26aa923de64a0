"""Process the orders in RabbitMQ's queue "orders", one at a time: python3 consumer.py"""

import json
import logging
import os
import signal
import time

import pika

# For another RabbitMQ, set the environment variable AMQP_URL: amqp://user:password@host:port
RABBITMQ = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672"))
QUEUE = "orders"
FIELDS = {"order_id": [str], "customer": [str], "amount": [int, float], "status": [str]}
PAUSE = 5  # seconds before an order that has failed goes back to the queue


class InvalidOrder(Exception):
    """A message that is not an order, or an order that would fail every time."""


def parse_order(body: bytes) -> dict:
    """Return the order in a message. Raise InvalidOrder if the message is not an order."""
    try:
        order = json.loads(body)
    except (ValueError, RecursionError) as error:  # bad JSON, or too many brackets in brackets
        raise InvalidOrder(f"unreadable JSON: {error}")
    if not isinstance(order, dict):
        raise InvalidOrder("not a JSON object")
    for field, types in FIELDS.items():
        # isinstance() would accept true as an amount, because True is an int.
        if type(order.get(field)) not in types:
            raise InvalidOrder(f"{field} is missing or has the wrong type")
    return order


def process_order(order: dict) -> None:
    """Put your own work here.

    If the order would fail every time (for example, its amount is negative), raise InvalidOrder:
    it is rejected, and by default deleted. After any other exception, RabbitMQ delivers it again.
    An order can also come twice, for example after a crash (README.md, "Once only").

    The work must take less than a minute. Meanwhile pika cannot send heartbeats ("I am alive"),
    and in the end RabbitMQ closes the connection: the order comes again, each time. If the work
    takes up to ten minutes, set AMQP_URL=amqp://guest:guest@localhost:5672?heartbeat=600
    """
    time.sleep(2)


def handle_message(channel, method, body: bytes) -> None:
    """Process the order in a message. Then acknowledge the message, or reject it.

    RabbitMQ can keep rejected messages, and limit how often one comes (README.md, "On a server").
    """
    name = repr(body)  # what the log calls the message, until we know its order_id
    try:
        order = parse_order(body)
        name = repr(order["order_id"])
        logging.info(f"Received {name}" + (" (redelivered)" if method.redelivered else ""))
        process_order(order)
    except InvalidOrder as error:
        logging.error(f"Rejecting ({error!r}): {body!r}")
        # RabbitMQ deletes the message, or keeps it elsewhere if you have set that up.
        channel.basic_reject(delivery_tag=method.delivery_tag, requeue=False)
    except Exception:
        logging.exception(f"Failed {name}")  # adds the traceback
        # The order goes back to the head of the queue, and can come again at once: so wait first.
        # If it fails every time, it comes again for ever, before the other orders.
        time.sleep(PAUSE)
        channel.basic_reject(delivery_tag=method.delivery_tag, requeue=True)
    else:  # no exception
        logging.info(f"Processed {name}")
        # Only now RabbitMQ deletes the message. If we die before this, it delivers it again.
        channel.basic_ack(delivery_tag=method.delivery_tag)


stopping = False


def stop(signal_number: int, frame: object) -> None:
    """Tell consume_orders() to stop. Python calls this at a signal (we do not need `frame`)."""
    global stopping
    stopping = True
    signal.signal(signal_number, signal.SIG_DFL)  # a second Ctrl-C ends the program at once


def consume_orders() -> None:
    """Handle messages until `stopping` is True. Raise an exception if RabbitMQ fails."""
    with pika.BlockingConnection(RABBITMQ) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        # RabbitMQ delivers the next message when we have acknowledged or rejected this one.
        channel.basic_qos(prefetch_count=1)
        logging.info("Waiting for orders (Ctrl-C stops after the current order)")
        # Unlike start_consuming(), this loop lets us check `stopping`: it gives us each message as
        # (method, properties, body), and (None, None, None) after half a second without one.
        for method, _, body in channel.consume(QUEUE, inactivity_timeout=0.5):
            if stopping:
                return  # RabbitMQ takes a message back that has come, but was not acknowledged
            if method is not None:
                handle_message(channel, method, body)
    # Otherwise the loop ends only if RabbitMQ stops sending messages (it cancels the consumer).
    raise RuntimeError("RabbitMQ has cancelled this consumer: was the queue deleted?")


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # we log pika's exceptions ourselves
    # From now on Ctrl-C (SIGINT) and `kill` or `docker stop` (SIGTERM) call stop().
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    while not stopping:
        try:
            consume_orders()
        except Exception as error:  # pika raises many kinds
            where = f"RabbitMQ at {RABBITMQ.host}:{RABBITMQ.port}"
            logging.error(f"Cannot consume ({where}): {error!r}")
            time.sleep(1)
    logging.info("Stopped")


if __name__ == "__main__":
    main()
