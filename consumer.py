"""Process the orders in RabbitMQ's queue "orders", one at a time: python3 consumer.py"""

import json
import logging
import os
import signal
import time

import pika

# For another RabbitMQ, set the environment variable AMQP_URL: amqp://user:password@host:port
RABBITMQ = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672"))
# RabbitMQ may still be starting: so pika quietly tries up to ten times. Then main() logs the
# error, and the ten attempts begin again.
RABBITMQ.connection_attempts = 10
RABBITMQ.retry_delay = 3  # seconds
QUEUE = "orders"
FIELDS = ["order_id", "customer", "amount", "status"]  # every order must have them
PAUSE = 5  # seconds to wait before a failed order goes back to the queue


class InvalidOrder(Exception):
    """The message is not an order, or process_order() refuses it."""


def parse_order(body: bytes) -> dict:
    """Return the order in a message. Raise InvalidOrder if the message is not an order."""
    try:
        order = json.loads(body)
    except (ValueError, RecursionError) as error:  # RecursionError: too many nested brackets
        raise InvalidOrder(f"unreadable JSON: {error}")
    if not isinstance(order, dict):
        raise InvalidOrder("not a JSON object")
    for field in FIELDS:
        if order.get(field) is None:
            raise InvalidOrder(f"{field} is missing or null")
    return order


def process_order(order: dict) -> None:
    """Put your own work here. (Before it runs on a server, follow tests/server.md.)

    - Raise InvalidOrder to refuse the order: by default, RabbitMQ then deletes it.
    - After any other exception, the order comes again (up to the queue's delivery limit, if any).
    - An order can come more than once, for example after Ctrl-C: the work must be safe to repeat.
    - The work should take less than a minute. During the work, pika cannot send heartbeats ("I am
      alive"). Without them, RabbitMQ can close the connection and deliver the order again.
    """
    time.sleep(2)  # simulates the work


def handle_message(channel, method, properties, body: bytes) -> None:
    """Process the order in a message. Then acknowledge the message, or reject it."""
    text = body.decode(errors="backslashreplace")  # for the log, even if it is not UTF-8
    try:
        order = parse_order(body)
        order_id = order["order_id"]
        # redelivered is True if RabbitMQ may have delivered this message before.
        # !r shows a line break in order_id as \n: the log entry stays one line.
        logging.info(f"Received {order_id!r}, redelivered: {method.redelivered}")
        process_order(order)
    except InvalidOrder as error:
        logging.error(f"Rejecting ({error!r}): {text!r}")
        # By default, RabbitMQ deletes the message: only the log has it (see tests/server.md).
        channel.basic_reject(delivery_tag=method.delivery_tag, requeue=False)
        return
    except Exception:
        logging.exception(f"Failed: {text!r}")  # adds the traceback
        # The order goes back to the queue, usually ahead of newer ones. It can come again at once:
        # so wait first. Without a delivery limit (tests/server.md: how to set one), this repeats
        # as long as the work fails. With one consumer, newer orders may wait meanwhile.
        channel.connection.sleep(PAUSE)  # like time.sleep(), but pika can send heartbeats
        channel.basic_reject(delivery_tag=method.delivery_tag, requeue=True)
        return
    # RabbitMQ deletes the message only after this. If we die earlier, it comes again.
    channel.basic_ack(delivery_tag=method.delivery_tag)
    logging.info(f"Processed {order_id!r}")


def consume_orders() -> None:
    """Handle messages until RabbitMQ cancels the consumer, or an exception is raised."""
    logging.info(f"Connecting to RabbitMQ at {RABBITMQ.host}:{RABBITMQ.port} (it may be starting)")
    with pika.BlockingConnection(RABBITMQ) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        # RabbitMQ sends us a message only after we have acknowledged or rejected the previous one.
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(queue=QUEUE, on_message_callback=handle_message)
        logging.info("Waiting for orders. Ctrl-C ends this; an unfinished order comes again")
        channel.start_consuming()  # returns only if RabbitMQ cancels the consumer
        logging.error("RabbitMQ has cancelled this consumer: was the queue deleted?")


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # hide pika's log: only the last error is shown
    # Let Ctrl-C (SIGINT) end the program at once: closing the connection first could take minutes.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    while True:
        try:
            consume_orders()
        except (pika.exceptions.AMQPError, OSError) as error:
            # AMQPError: e.g. RabbitMQ is down. OSError: e.g. unknown host.
            logging.warning(f"Trying again: {error!r}")  # !r shows the class of the error, too
        except Exception:
            # Any other error, e.g. a mistake in consume_orders(): show where it happened.
            logging.exception("Trying again")  # adds the traceback
        time.sleep(3)  # so that a lasting error does not flood the log


if __name__ == "__main__":
    main()
