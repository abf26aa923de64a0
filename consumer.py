# What "uv run consumer.py" and "pipx run consumer.py" install (PEP 723):
# /// script
# requires-python = ">=3.8"
# dependencies = ["pika>=1.3,<2"]
# ///
"""Process the orders in RabbitMQ's queue "orders", one at a time.

    python3 consumer.py [--processing-time SECONDS] [--count ORDERS]

Ctrl-C stops it after the order in hand, a second Ctrl-C stops it at once. The
environment variable AMQP_URL says where RabbitMQ is. See README.md for more.
"""

from __future__ import annotations  # lets Python 3.8 read "dict[str, Any]"

import argparse
import json
import math
import os
import signal
import sys
import time
import warnings
from concurrent import futures
from contextlib import suppress
from decimal import Decimal
from typing import Any, TextIO
from urllib.parse import urlsplit

try:
    import pika
except ImportError:
    sys.exit("pika is missing: python3 -m pip install pika (apt: python3-pika)")

# pika 1.5 warns of changes in 2.0. Line 4 asks for a version before 2.0.
warnings.filterwarnings("ignore", "BlockingConnection is deprecated")

# producer.py and consumer.py do not import each other: they will run in different
# places. What both must agree on is repeated in both, from here to connect().

QUEUE = "orders"
DEAD_LETTER_QUEUE = "orders.dead"  # keeps the messages that cannot be processed
# Messages go to an exchange, which passes them to queues. The default exchange passes
# a message to the queue that its routing key names.
DEFAULT_EXCHANGE = ""
QUEUES = {
    QUEUE: {
        # The type that keeps its messages on disk; in a cluster, on most nodes' disks.
        "x-queue-type": "quorum",
        # Move a message to the dead-letter queue if it is rejected, or if its consumers
        # have crashed 20 times: at the first delivery and at 19 more.
        "x-delivery-limit": 19,
        "x-dead-letter-exchange": DEFAULT_EXCHANGE,
        "x-dead-letter-routing-key": DEAD_LETTER_QUEUE,
        # Keep it in this queue until it is stored in that one. Requires x-overflow:
        "x-dead-letter-strategy": "at-least-once",
        # Where an administrator has limited the queue's length, refuse new messages
        # when it is full. (The default drops old ones.)
        "x-overflow": "reject-publish",
    },
    DEAD_LETTER_QUEUE: {
        "x-queue-type": "quorum",
        # As good as no limit: by default a message is deleted after 20 deliveries, and
        # a look at it on RabbitMQ's management page counts as a delivery.
        "x-delivery-limit": 2_000_000_000,
    },
}

# Errors that trying again does not cure: a part of their text, and advice.
PERMANENT_ERRORS = {
    "ACCESS_REFUSED": "Check the user, the password and the permissions.",
    # A vhost is a separate set of queues. The last part of the URL is its name.
    "NOT_ALLOWED": "Check the vhost. To add one: rabbitmqctl add_vhost NAME",
    # There is a queue of this name whose arguments are not those in QUEUES.
    "inequivalent arg": "To delete queue and orders: rabbitmqctl delete_queue NAME",
    "larger than": "The limit is max_message_size in rabbitmq.conf.",
    "CERTIFICATE_VERIFY_FAILED": "To trust it: export SSL_CERT_FILE=ca.pem",
}

# Escape characters that the terminal cannot show. (sys.stdout may be closed: None.)
if hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(errors="backslashreplace")


def say(text: str, stream: TextIO = sys.stdout) -> None:
    """Print the time and the first 500 characters of a text."""
    try:
        print(time.strftime("%H:%M:%S"), text[:500], file=stream, flush=True)
    except OSError as error:  # the disk is full, or nobody reads the pipe any more
        with suppress(OSError):
            print(f"Cannot write: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # from any thread, and without another try to write


def parse_order(body: bytes) -> dict[str, Any]:
    """Return the order in a message. Raise ValueError if there is no valid order."""
    try:
        text = body.decode("utf-8-sig")  # with or without Windows' byte order mark
        order = json.loads(text, parse_float=Decimal)  # amounts stay exact
    except Exception as error:  # a RecursionError, too, if it is nested too deep
        raise ValueError(f"not JSON in UTF-8: {error}") from error
    if not isinstance(order, dict):
        raise ValueError("not a JSON object")
    for field in ("order_id", "customer", "status"):
        value = order.get(field)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{field} must be a string that is not blank")
    # It is printed as it stands, so it must not contain codes for the terminal.
    if not order["order_id"].isprintable():
        raise ValueError("order_id must be printable")
    # type(), since isinstance(True, int) is true.
    amount = order.get("amount", 0)
    if type(amount) not in (int, Decimal) or amount <= 0:
        raise ValueError("amount must be a number greater than 0")
    return order


def parse_url(url: str) -> pika.URLParameters:
    """Return the connection parameters in an AMQP URL. Exit with 2 if it is invalid."""
    try:
        parts = urlsplit(url)
        # A "/" in the password, if not written %2F, puts the "@" behind the host.
        after_host = parts.path + parts.query + parts.fragment
        if parts.scheme in ("amqp", "amqps") and "@" not in after_host:
            return pika.URLParameters(url)
    except Exception:  # its text may contain the password
        pass
    say("AMQP_URL must look like amqp://USER:PASSWORD@HOST:5672/VHOST", sys.stderr)
    sys.exit(2)


# One URL, or one for each node of a cluster, separated by commas.
AMQP_URL = os.environ.get("AMQP_URL") or "amqp://guest:guest@localhost:5672"
NODES = [parse_url(url.strip()) for url in AMQP_URL.split(",")]
ADDRESS = ", ".join(f"{n.credentials.username}@{n.host}:{n.port}" for n in NODES)


def describe_or_exit(error: Exception) -> str:
    """Return a text for an error. Exit with 1 if trying again does not cure it."""
    text = f"RabbitMQ at {ADDRESS}: {str(error) or repr(error)}"
    for part, advice in PERMANENT_ERRORS.items():
        # NOT_ALLOWED also means a limit of connections, which may pass.
        if part in text and " limit " not in text:
            sys.exit(f"{text}\n{advice}")
    return text


def connect() -> pika.BlockingConnection:
    """Connect and declare the queues. Raise AMQPError if that fails."""
    try:
        connection = pika.BlockingConnection(NODES)  # the first node that answers
    except Exception as error:  # of many kinds: turn each into an AMQPError
        raise pika.exceptions.AMQPError(str(error) or repr(error)) from error
    try:
        # Commands go over a channel. An error closes the channel, not the connection.
        channel = connection.channel()
        for queue, arguments in QUEUES.items():
            # durable: the queue itself outlives a restart of RabbitMQ.
            channel.queue_declare(queue, durable=True, arguments=arguments)
    except pika.exceptions.ChannelClosedByBroker as error:
        if "ACCESS_REFUSED" not in error.reply_text:
            connection.close()
            raise
        # The user may connect, but not declare: an administrator must have done it.
        # pika 1.5 raises the error again in the next process_data_events(): this one.
        with suppress(pika.exceptions.ChannelClosedByBroker):
            connection.process_data_events(time_limit=0)
    return connection


# Here begins what only the consumer does.

processing_time = 2.0  # seconds; changed by --processing-time


def process_order(order: dict[str, Any]) -> None:
    """Do the work for an order. Put your own code here; it may take long.

    If it raises an exception, the order goes to the dead-letter queue. An order may
    come twice: if this script is killed, or loses the connection, in mid-work.
    """
    time.sleep(processing_time)


def receive_order(body: bytes, redelivered: bool) -> str:
    """Parse and process the order in a message, and return its order_id."""
    order = parse_order(body)
    order_id = str(order["order_id"])
    again = " (redelivered)" if redelivered else ""
    say(f"Received {order_id}{again}: {order['customer']!r}, {order['amount']}")
    process_order(order)
    return order_id


class Consumer:
    """Receives and processes one order after the other, until it is stopped."""

    def __init__(self, orders_to_do: float) -> None:
        self.orders_to_do = orders_to_do  # then it stops; infinite without --count
        self.stopping = False
        self.outage = False  # the connection is lost, and the user knows
        # A thread for the work: the main thread has to keep the connection alive.
        self.worker = futures.ThreadPoolExecutor(max_workers=1)
        self.order_count = 0  # orders done since the queue was last empty
        self.busy_time = 0.0  # seconds of work on them

    def stop(self, signal_number: int, *_: Any) -> None:
        """Stop after the order in hand; called by Python when a signal arrives."""
        if self.stopping:
            os._exit(128 + signal_number)  # at once; shells expect this status
        self.stopping = True

    def run(self) -> None:
        """Connect and consume. When the connection is lost, do it again."""
        while not self.stopping:
            try:
                with connect() as connection:
                    if not self.stopping:
                        self.consume(connection.channel())
            except pika.exceptions.AMQPError as error:
                text = describe_or_exit(error)
                if not self.outage:
                    say(f"{text}; trying again every second", sys.stderr)
                self.outage = True
                time.sleep(1)
        say("Stopped")

    def consume(self, channel: Any) -> None:
        """Receive and process orders over one connection."""
        messages: list[Any] = []
        channel.basic_qos(prefetch_count=1)  # at most one unacknowledged message
        # pika calls this lambda with each message: (channel, method, properties, body).
        # It only stores the message. While it runs, pika cannot report that RabbitMQ
        # has cancelled the consumer.
        channel.basic_consume(QUEUE, lambda *message: messages.append(message))
        self.outage = False
        say(f"Waiting for orders from RabbitMQ at {ADDRESS}. Stop: Ctrl-C")
        # consumer_tags has our consumer in it until we or RabbitMQ cancel it.
        while channel.consumer_tags:
            # Send and receive, until a message has come or 0.5 s have passed.
            channel.connection.process_data_events(time_limit=0.5)
            if messages:
                self.handle_message(*messages.pop())
            elif self.stopping:
                channel.stop_consuming()
            else:  # the queue is empty: count and time the next orders from 0
                self.order_count = 0
                self.busy_time = 0.0
        if not self.stopping:
            raise pika.exceptions.AMQPError(
                "consumer cancelled: an order took longer than RabbitMQ's"
                " consumer_timeout, or the queue was deleted"
            )

    def handle_message(
        self, channel: Any, method: Any, properties: Any, body: bytes
    ) -> None:
        """Process the order in a message, then acknowledge or reject the message."""
        start = time.monotonic()
        work = self.worker.submit(receive_order, body, method.redelivered)
        self.wait_for(work, channel.connection)
        if not channel.consumer_tags:
            return  # the consumer was cancelled: the message is no longer ours
        error = work.exception()  # what receive_order raised, or None
        if error is None:
            self.orders_to_do -= 1
        if self.stopping or self.orders_to_do == 0:
            # Cancel first: the acknowledgement would make RabbitMQ send the next one.
            # The message in hand can still be acknowledged.
            self.stopping = True
            channel.stop_consuming()
        if error is not None:
            channel.basic_reject(method.delivery_tag, requeue=False)
            message = f"message {properties.message_id!r}"
            say(f"Rejected {message} to {DEAD_LETTER_QUEUE}: {error!r}", sys.stderr)
        else:
            channel.basic_ack(method.delivery_tag)
            self.order_count += 1
            self.busy_time += time.monotonic() - start
            orders = "order" if self.order_count == 1 else "orders"
            total = f"{self.order_count} {orders} in {self.busy_time:.2f} s"
            say(f"Processed {work.result()} ({total})")

    def wait_for(self, work: futures.Future[str], connection: Any) -> None:
        """Wait until the work is done. Meanwhile, keep the connection alive."""
        try:
            while not work.done():
                futures.wait([work], timeout=0.2)
                # Send heartbeats: without them RabbitMQ closes the connection.
                connection.process_data_events(time_limit=0)
        finally:
            # Even if the connection is lost: there are never two orders at once.
            futures.wait([work])


def main() -> None:
    global processing_time
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processing-time", type=float, default=2, metavar="SECONDS")
    parser.add_argument("--count", type=int, default=math.inf, metavar="ORDERS")
    options = parser.parse_args()
    if not 0 <= options.processing_time <= 86_400 or options.count < 1:
        parser.error("SECONDS must be from 0 to 86400 (a day), ORDERS at least 1")
    processing_time = options.processing_time
    consumer = Consumer(options.count)
    signal.signal(signal.SIGINT, consumer.stop)
    signal.signal(signal.SIGTERM, consumer.stop)
    consumer.run()


if __name__ == "__main__":
    main()
