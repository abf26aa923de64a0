"""Process the orders in RabbitMQ's queue "orders", one at a time: python3 consumer.py"""

import json
import logging
import os
import signal
import time

import pika

RABBITMQ = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672"))
QUEUE = "orders"
FIELDS = {"order_id": [str], "customer": [str], "amount": [int, float], "status": [str]}
PAUSE = 5  # seconds to wait after work that has failed


def parse_order(body: bytes) -> dict:
    """Return the order in a message. Raise ValueError if the message is not an order."""
    order = json.loads(body)  # raises a ValueError if it cannot read the message
    if not isinstance(order, dict):
        raise ValueError("it is not a JSON object")
    for field, types in FIELDS.items():
        # type() and not isinstance(), because isinstance(True, int) is True.
        if type(order.get(field)) not in types:
            raise ValueError(f"{field} is missing or has the wrong type")
    return order


def process_order(order: dict) -> None:
    """Put your own work here. If it fails, raise an exception: the order will be redelivered.

    An order that always fails holds up the next ones (README.md, "On a server", sets a limit).
    An order can be delivered twice, for example after a crash before basic_ack() ("Once only").
    The work must take less than a minute, because pika sends no heartbeats meanwhile, and RabbitMQ
    closes a silent connection. AMQP_URL=amqp://guest:guest@localhost:5672?heartbeat=600 (seconds)
    allows ten minutes.
    """
    time.sleep(2)


def handle_message(channel, method, body: bytes) -> None:
    """Process the order in a message. Then acknowledge the message, or reject it."""
    try:
        order = parse_order(body)
    except (ValueError, RecursionError) as error:  # RecursionError: JSON nested too deeply
        logging.error(f"Rejecting a message that is not an order ({error}): {repr(body)}")
        # RabbitMQ deletes the message, unless you change that (README.md, "On a server").
        channel.basic_reject(delivery_tag=method.delivery_tag, requeue=False)
        return

    order_id = repr(order["order_id"])  # so a line break in it cannot forge a line of the log
    logging.info(f"Received {order_id}" + (" (redelivered)" if method.redelivered else ""))
    try:
        process_order(order)
    except Exception:
        logging.exception(f"Failed {order_id}")  # adds the traceback
        # RabbitMQ redelivers an order as soon as it is back in the queue, so we wait before that.
        time.sleep(PAUSE)
        # Put it back into the queue (README.md, "On a server", says why by basic_reject).
        channel.basic_reject(delivery_tag=method.delivery_tag, requeue=True)
        return

    logging.info(f"Processed {order_id}")
    # RabbitMQ deletes the message now. If this program dies earlier, RabbitMQ redelivers it.
    channel.basic_ack(delivery_tag=method.delivery_tag)


stopping = False


def stop(signal_number: int, _: object) -> None:
    """Let consume_orders() stop. Python calls this at the first Ctrl-C or `kill`."""
    global stopping
    stopping = True
    signal.signal(signal_number, signal.SIG_DFL)  # the next such signal ends the program at once


def consume_orders() -> None:
    """Handle messages until `stopping` is True. Raise an exception if RabbitMQ fails."""
    with pika.BlockingConnection(RABBITMQ) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        # RabbitMQ delivers the next message when we have acknowledged or rejected this one.
        channel.basic_qos(prefetch_count=1)
        logging.info("Waiting for orders (Ctrl-C stops after the current order)")
        # consume() replaces basic_consume() and start_consuming(). After half a second without a
        # message it yields None three times, so that we can check `stopping`.
        for method, _, body in channel.consume(QUEUE, inactivity_timeout=0.5):
            if stopping:
                return  # a message that has just come goes back to the queue
            if method is not None:
                handle_message(channel, method, body)
    raise RuntimeError("RabbitMQ sends no more orders: was the queue deleted?")


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # we log pika's exceptions ourselves
    signal.signal(signal.SIGINT, stop)  # Ctrl-C
    signal.signal(signal.SIGTERM, stop)  # `kill`, and `docker stop`
    while not stopping:
        try:
            consume_orders()
        except Exception as error:  # pika raises many kinds
            where = f"{RABBITMQ.host}:{RABBITMQ.port}"
            logging.error(f"Cannot consume from RabbitMQ at {where}: {repr(error)}")
            time.sleep(1)
    logging.info("Stopped")


if __name__ == "__main__":
    main()
