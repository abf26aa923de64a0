"""Process the orders in RabbitMQ's queue "orders", one at a time: python3 consumer.py"""

import json
import logging
import os
import signal
import time

import pika

# For another RabbitMQ, set the environment variable AMQP_URL: amqp://user:password@host:port
RABBITMQ = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672"))
QUEUE = "orders"
FIELDS = ["order_id", "customer", "amount", "status"]  # every order must have them
PAUSE = 5  # seconds to wait after a failure, before the order goes back to the queue


class InvalidOrder(Exception):
    """The message is not an order, or process_order() refuses it."""


def parse_order(body: bytes) -> dict:
    """Return the order in a message. Raise InvalidOrder if the message is not an order."""
    try:
        order = json.loads(body)
    except (ValueError, RecursionError) as error:  # not JSON, or nested too deeply
        raise InvalidOrder(f"unreadable JSON: {error}")
    if not isinstance(order, dict):
        raise InvalidOrder("not a JSON object")
    for field in FIELDS:
        if order.get(field) is None:
            raise InvalidOrder(f"{field} is missing or null")
    return order


def process_order(order: dict) -> None:
    """Put your own work here (README.md, "For engineers", says more).

    - The work must take less than a minute: meanwhile, pika sends no heartbeats ("I am alive"), and
      RabbitMQ can close the connection and deliver the order again.
    - raise InvalidOrder if the order must not be tried again, for example if its amount is
      negative. Then RabbitMQ deletes the order. The log shows the whole order.
    - After any other exception, RabbitMQ delivers the order again.
    - An order can come twice, for example after Ctrl-C.
    """
    time.sleep(2)


def handle_message(channel, method, properties, body: bytes) -> None:
    """Process the order in a message. Then acknowledge the message, or reject it."""
    text = body.decode(errors="backslashreplace")  # for the log, even if it is not UTF-8
    try:
        order = parse_order(body)
        order_id = order["order_id"]
        # !r shows a line break as \n, so that this stays one line of the log.
        logging.info(f"Received {order_id!r}, redelivered: {method.redelivered}")
        process_order(order)
    except InvalidOrder as error:
        logging.error(f"Rejecting ({error!r}): {text!r}")
        # RabbitMQ deletes the message. (README.md, "On a server", shows how to keep it.)
        channel.basic_reject(delivery_tag=method.delivery_tag, requeue=False)
    except Exception:
        logging.exception(f"Failed: {text!r}")  # adds the traceback
        # The order goes back to the head of the queue, and can come again at once: so wait first.
        # This repeats as long as the work fails (README.md, "On a server", sets a limit).
        channel.connection.sleep(PAUSE)  # like time.sleep(), but with heartbeats
        channel.basic_reject(delivery_tag=method.delivery_tag, requeue=True)
    else:  # not inside the try: if basic_ack() fails, the work has not failed
        # Only now RabbitMQ deletes the message. If we die before this, it comes again.
        channel.basic_ack(delivery_tag=method.delivery_tag)
        logging.info(f"Processed {order_id!r}")


def consume_orders() -> None:
    """Handle messages. Raise an exception if the connection or the channel fails.

    Return if RabbitMQ ends the subscription, for example because the queue was deleted.
    """
    with pika.BlockingConnection(RABBITMQ) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        # RabbitMQ delivers the next message when we have acknowledged or rejected this one.
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(queue=QUEUE, on_message_callback=handle_message)
        logging.info("Waiting for orders. Ctrl-C ends this; an unfinished order comes again")
        channel.start_consuming()  # returns only if RabbitMQ has ended the subscription
        logging.error("RabbitMQ has ended the subscription: was the queue deleted? Reconnecting")


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # pika would log the same errors again
    # Let the operating system end the program at Ctrl-C (SIG_DFL). With Python's KeyboardInterrupt,
    # the `with` would first close the connection, and wait for an answer that may never come.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    while True:
        try:
            consume_orders()
        except (pika.exceptions.AMQPError, OSError) as error:
            # From RabbitMQ, or from the network (an unknown host). !r adds the error's name.
            logging.error(f"RabbitMQ at {RABBITMQ.host}:{RABBITMQ.port}: {error!r}")
        except Exception:  # anything else, e.g. RabbitMQ does not answer, or we made a mistake
            logging.exception("Trying again")  # adds the traceback
        time.sleep(1)


if __name__ == "__main__":
    main()
