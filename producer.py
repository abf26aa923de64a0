# What "uv run producer.py" and "pipx run producer.py" install (PEP 723):
# /// script
# requires-python = ">=3.8"
# dependencies = ["pika>=1.3,<2"]
# ///
"""Publish orders to RabbitMQ's queue "orders".

    python3 producer.py         five sample orders
    python3 producer.py FILE    the orders in a file, one JSON object a line
    python3 producer.py -       the same from standard input

The environment variable AMQP_URL says where RabbitMQ is. See README.md for more.
"""

from __future__ import annotations  # lets Python 3.8 read "dict[str, Any]"

import argparse
import json
import os
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
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


# Here begins what only the producer does.

PATIENCE = 30  # seconds without a newly stored order until the producer gives up
CALM = 2  # seconds without an error until it says that the trouble is over
MAX_UNCONFIRMED = 1000  # orders that are sent but not yet confirmed
REFUSED = "it refuses orders: queue full, or missing, or most of its nodes down"
SAMPLES = """\
{"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"}
{"order_id": "ORD-002", "customer": "Анна Ким", "amount": 1249.50, "status": "pending"}
{"order_id": "ORD-003", "customer": "John Smith", "amount": 320, "status": "pending"}
{"order_id": "ORD-004", "customer": "Пётр Орлов", "amount": 7800, "status": "pending"}
{"order_id": "ORD-005", "customer": "Emma Brown", "amount": 150, "status": "pending"}
"""


@dataclass
class Order:
    order_id: str
    body: bytes
    times_sent: int = 0  # not counting when RabbitMQ refused it
    stored: bool = False  # RabbitMQ has confirmed it

    def properties(self) -> pika.BasicProperties:
        return pika.BasicProperties(
            content_type="application/json",
            delivery_mode=2,  # persistent
            message_id=self.order_id[:60],  # at most 240 bytes; 255 are allowed
            timestamp=int(time.time()),
        )


def read_orders(file_name: str | None) -> list[Order]:
    """Return the orders in a file. Raise ValueError at the first invalid line."""
    lines = SAMPLES.encode().splitlines()
    if file_name is not None:
        with open(0 if file_name == "-" else file_name, "rb") as file:  # 0: stdin
            lines = file.read().splitlines()
    orders = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                order = parse_order(line)
            except ValueError as error:
                raise ValueError(f"{file_name}:{number}: {error}") from error
            orders.append(Order(order["order_id"], line))
    return orders


class Publisher:
    """Publishes orders until RabbitMQ has stored all of them."""

    def __init__(self, orders: list[Order]) -> None:
        self.orders = orders
        self.stored_count = 0
        self.unconfirmed: dict[int, Order] = {}  # by delivery tag, see publish()
        self.trouble = ""  # the last error, until it is over
        self.trouble_time = 0.0
        self.start_time = 0.0  # when the first order was sent
        self.last_time = time.monotonic()  # of the last stored order, or the start

    def run(self) -> None:
        """Connect and publish. If that fails, go on with the remaining orders."""
        # A daemon thread does not keep the script from ending.
        threading.Thread(target=self.give_up_in_time, daemon=True).start()
        while self.stored_count < len(self.orders):
            try:
                self.publish(connect())
            except pika.exceptions.AMQPError as error:
                self.tell(describe_or_exit(error))
                time.sleep(1)

    def publish(self, connection: pika.BlockingConnection) -> None:
        """Publish the orders that are not stored, and wait for their confirmations.

        pika's public methods wait for each confirmation before the next order, which
        takes ten times as long. So this uses what is inside pika: `_impl`, which does
        not wait, and `_flush_output`, which sends and receives until its condition is
        true, or raises AMQPError. It passes what it receives to on_confirm() etc.
        """
        channel = connection.channel()
        connection._impl.add_on_connection_blocked_callback(self.on_blocked)
        channel._impl.add_on_return_callback(self.on_return)
        channel._impl.confirm_delivery(self.on_confirm)  # ask for confirmations
        self.unconfirmed.clear()  # a new channel counts from 1 again
        self.start_time = self.start_time or time.monotonic()
        remaining = [order for order in self.orders if not order.stored]
        # If the connection breaks, what is unconfirmed is sent again, and may be stored
        # twice. So begin with few at a time, as it may break again, and double that
        # while all goes well.
        limit = 10
        # A channel numbers its messages 1, 2, 3 ...: these are the delivery tags.
        for tag, order in enumerate(remaining, start=1):
            # QUEUE is the routing key. mandatory: return it if there is no queue.
            channel._impl.basic_publish(
                DEFAULT_EXCHANGE, QUEUE, order.body, order.properties(), mandatory=True
            )
            order.times_sent += 1
            self.unconfirmed[tag] = order
            if len(self.unconfirmed) == limit:
                channel._flush_output(lambda: not self.unconfirmed)
                limit = min(2 * limit, MAX_UNCONFIRMED)
                if not order.stored:  # the last of them was refused, or came back
                    break
        channel._flush_output(lambda: not self.unconfirmed)
        connection.close()
        if self.stored_count < len(self.orders):
            raise pika.exceptions.AMQPError(REFUSED)  # run() tries again

    def on_confirm(self, frame: Any) -> None:
        """Note that RabbitMQ has stored (Ack) or refused (Nack) an order."""
        answer = frame.method
        tags = [answer.delivery_tag]
        if answer.multiple:  # it is for this order and all before it
            tags = [tag for tag in self.unconfirmed if tag <= answer.delivery_tag]
        for tag in tags:
            order = self.unconfirmed.pop(tag, None)  # None after on_return()
            if order and isinstance(answer, pika.spec.Basic.Ack):
                self.count_stored(order)
            elif order:
                order.times_sent -= 1

    def on_return(self, *_: Any) -> None:
        """Note that an order came back, since there is no queue.

        RabbitMQ does not say its delivery tag, and will confirm it as "dealt with". So
        forget all that is unconfirmed: it will be sent again, maybe twice.
        """
        self.unconfirmed.clear()

    def count_stored(self, order: Order) -> None:
        order.stored = True
        self.stored_count += 1
        self.last_time = time.monotonic()
        if self.trouble and self.last_time > self.trouble_time + CALM:
            say("RabbitMQ stores orders again", sys.stderr)
            self.trouble = ""
        if len(self.orders) <= 20:
            say(f"Stored {order.order_id}")
        elif self.stored_count % 1000 == 0 and os.isatty(2):  # 2: stderr
            print(f"{self.stored_count} orders stored", end="\r", file=sys.stderr)

    def on_blocked(self, connection: Any, frame: Any) -> None:
        """Note that RabbitMQ accepts no orders, as memory or disk space is short."""
        self.tell(f"RabbitMQ at {ADDRESS} holds orders up: {frame.method.reason}")

    def tell(self, trouble: str) -> None:
        """Tell the user what is wrong, but once and not every second."""
        if not self.trouble:
            say(f"{trouble}; trying again for {PATIENCE} s", sys.stderr)
        self.trouble = trouble
        self.trouble_time = time.monotonic()

    def give_up_in_time(self) -> None:
        """Exit with 1 if no order gets stored; in a thread, since pika may hang."""
        while time.monotonic() < self.last_time + PATIENCE:
            time.sleep(0.1)
        # If all are stored, only the closing of the connection hangs: a success.
        if self.stored_count < len(self.orders):
            reason = self.trouble or f"RabbitMQ at {ADDRESS} does not answer"
            say(f"Giving up after {PATIENCE} s. {reason}", sys.stderr)
        self.report()
        # sys.exit() would end this thread only.
        os._exit(0 if self.stored_count == len(self.orders) else 1)

    def report(self) -> None:
        """Say how many orders are stored, and what is not certain."""
        total = len(self.orders)
        sent = sum(order.times_sent > 0 for order in self.orders)
        repeated = sum(order.times_sent > 1 for order in self.orders)
        if self.stored_count == total:
            seconds = self.last_time - self.start_time if total else 0
            say(f"{total} of {total} orders stored in {seconds:.3f} s")
        elif self.start_time:
            maybe = sent - self.stored_count
            certain = f"{self.stored_count} of {total} orders stored for sure"
            say(f"{certain}, {maybe} more may be", sys.stderr)
        if repeated:
            say(f"{repeated} orders may be stored twice", sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("FILE", nargs="?", help="an order a line; -: standard input")
    options = parser.parse_args()
    # Let Ctrl-C and SIGTERM raise KeyboardInterrupt, also where a shell script has
    # started this with "&", which makes it ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        orders = read_orders(options.FILE)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    publisher = Publisher(orders)
    try:
        publisher.run()
    finally:
        publisher.report()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)  # what shells expect after Ctrl-C
