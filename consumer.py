# /// script
# requires-python = ">=3.8"
# dependencies = ["pika>=1.3,<2"]
# ///
"""Work off the orders in RabbitMQ's queue "orders", one at a time: python3 consumer.py

Ctrl-C or SIGTERM finishes the order in hand and exits 0; a second one leaves at once.
AMQP_URL in the environment says where RabbitMQ is. README.md tells the rest.
"""

import argparse
import contextlib
import json
import logging
import math
import os
import re
import signal
import sys
import time
from decimal import Decimal
from typing import Any, Dict, List, TextIO

try:
    import pika  # type: ignore[import-untyped, unused-ignore]
except ImportError:
    sys.exit("pika is missing: python3 -m pip install pika (or: apt install python3-pika)")
logging.getLogger("pika").addHandler(logging.NullHandler())  # what it logs is said below, once

QUEUE, DEAD_LETTER_QUEUE = "orders", "orders.dead"
QUEUES: Dict[str, Dict[str, Any]] = {  # quorum: what is confirmed is on disk, on most of the nodes
    # Without a limit of its own, RabbitMQ 4 drops what was looked at and put back 20 times.
    DEAD_LETTER_QUEUE: {"x-queue-type": "quorum", "x-delivery-limit": 2_000_000_000},
    QUEUE: {"x-queue-type": "quorum", "x-delivery-limit": 19,  # dead when given back the 20th time
            "x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD_LETTER_QUEUE,
            "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"},
}
HOPELESS = {  # a word of the error where waiting does not help, and what does
    "ACCESS_REFUSED": "Check the user, the password and the permissions (AMQP_URL).",
    "NOT_ALLOWED": "Check the vhost (AMQP_URL), or add it: rabbitmqctl add_vhost NAME",
    "inequivalent arg": "This removes it, and all in it: rabbitmqctl -p {vhost} delete_queue {queue}",
    "CERTIFICATE_VERIFY_FAILED": "Name the authority that you trust: SSL_CERT_FILE=ca.pem",
    "Blocked connection": "Free memory or disk on its machine, then publish the rest.",
}


def say(text: str, file: TextIO = sys.stdout) -> None:
    """Print the time and one line of at most 500 characters, none of which steers a terminal."""
    text = text.encode(file.encoding, "backslashreplace").decode(file.encoding)  # it may lack Cyrillic
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    try:
        print(time.strftime("%H:%M:%S"), safe[:500], file=file, flush=True)
    except OSError as error:  # the disk is full, or "| head" has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # or Python tries again at exit
        sys.exit(f"Cannot write: {error}")


def parse_order(body: bytes) -> Dict[str, Any]:
    """Return the order in a body, one JSON object (RFC 8259) in UTF-8; ValueError says why not."""
    try:  # Decimal leaves amounts as they are written; int refuses NaN and Infinity
        order = json.loads(body.decode("utf-8-sig"), parse_float=Decimal, parse_constant=int)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"not JSON in UTF-8: {error}") from None
    if not isinstance(order, dict):
        raise ValueError("not a JSON object")
    for field in ("order_id", "customer", "status"):
        text = order.get(field)
        if not isinstance(text, str) or not text.strip() or re.search("[\ud800-\udfff]", text):
            raise ValueError(f"{field} must be a string of Unicode that is not blank")
    if type(order.get("amount")) not in (int, Decimal) or not 0 < order["amount"] <= sys.float_info.max:
        raise ValueError("amount must be a number, finite and greater than 0")
    return order


def parse_urls(urls: str) -> List[pika.URLParameters]:
    """Return the nodes that AMQP_URL names; exits with 2, the password hidden, if it is wrong."""
    nodes = []
    for url in re.split(r",\s*(?=\w+://)", urls or "amqp://guest:guest@localhost:5672/%2F"):
        try:
            nodes.append(pika.URLParameters(re.findall("^amqps?://.*", url)[0]))
        except Exception as error:  # the query after the ? can raise about anything
            known = re.match(r"Unknown|Invalid|Expected|\[Errno", str(error))
            problem = error if known else "must look like amqp://USER:PASSWORD@HOST:PORT/VHOST"
            secret = r":(?!//)(?!\d*(/[^@]*)?$).*?(?=@[^@]*$|$)"  # not the port; up to the last @
            say(f"AMQP_URL {re.sub(secret, ':***', url.partition('?')[0], count=1)}: {problem}", sys.stderr)
            sys.exit(2)
    return nodes


def connect(nodes: List[pika.URLParameters], patience: float, trouble: str = "") -> Any:
    """Return a channel, the queues declared; exits with 1 after `patience` seconds, or if hopeless."""
    queue, vhost, user = "", nodes[-1].virtual_host, nodes[-1].credentials.username
    where = ", ".join(f"{node.host}:{node.port}" for node in nodes)
    deadline, waiting = time.monotonic() + patience, False
    while True:
        advice = [text for sign, text in HOPELESS.items() if sign in trouble]
        if advice or time.monotonic() > deadline:
            hint = "".join(advice or ["Is it up, and is AMQP_URL right?"]).format(queue=queue, vhost=vhost)
            sys.exit(f"RabbitMQ at {where}, user {user}, vhost {vhost}: {trouble}\n{hint}")
        if trouble and not waiting:
            say(f"RabbitMQ at {where} is out of reach, trying every second: {trouble}", sys.stderr)
        waiting = bool(trouble)
        time.sleep(waiting)
        try:
            channel = pika.BlockingConnection(nodes).channel()
            for queue, arguments in QUEUES.items():
                channel.queue_declare(queue, durable=True, arguments=arguments)
            if waiting:
                say(f"RabbitMQ at {where} is there.", sys.stderr)
            return channel
        except Exception as error:  # pika lets OSError and errors of no family through
            cause = getattr(next(iter(error.args), error), "exception", error)  # of several, packed
            trouble = str(cause) or repr(cause)


def process_order(order: Dict[str, Any], channel: Any, seconds: float) -> None:
    """Stand in for the real work; an order for which this raises is dead-lettered."""
    channel.connection.sleep(seconds)  # time.sleep would starve the connection's heartbeats


def consume(channel: Any, run: argparse.Namespace) -> None:
    """Process the deliveries one by one and settle each, until it is time to stop."""
    channel.basic_qos(prefetch_count=1)
    for method, properties, body in channel.consume(QUEUE, inactivity_timeout=0.5):
        order = None
        if method:
            run.started = run.started or time.monotonic()
            try:
                order = parse_order(body)
                again = " (redelivered)" if method.redelivered else ""
                say(f"Received {order['order_id']}{again}: {order['customer']:.80}, {order['amount']!s:.40}")
                process_order(order, channel, run.processing_time)
            except pika.exceptions.AMQPError:
                raise  # not the order's fault: it comes again
            except Exception as error:
                order, what = None, f"{properties.message_id or 'a message':.80}"
                say(f"Rejected {what} to {DEAD_LETTER_QUEUE}: {type(error).__name__}: {error}", sys.stderr)
        last = run.stopping or run.processed + bool(order) == run.count
        if last:
            channel.cancel()  # before the acknowledgement, which would bring the next order
        if order:
            channel.basic_ack(method.delivery_tag)
            run.processed, run.ended = run.processed + 1, time.monotonic()
            say(f"Processed {order['order_id']}")
        elif method:
            channel.basic_reject(method.delivery_tag, requeue=False)
        if last:
            channel.connection.close()
            return
    raise pika.exceptions.ConsumerCancelled(f"queue {QUEUE} was deleted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processing-time", type=float, default=2, metavar="SECONDS", help="default: 2")
    parser.add_argument("--count", type=int, default=math.inf, metavar="N", help="orders to process")
    parser.set_defaults(processed=0, started=0.0, ended=0.0, connecting=True, stopping=False)
    run, nodes, trouble = parser.parse_args(), parse_urls(os.environ.get("AMQP_URL", "")), ""
    if not 0 <= run.processing_time < 1e6 or run.count < 1:
        parser.error("SECONDS must be a number, 0 or more, and N must be 1 or more")

    def stop(signum: int, frame: Any) -> None:
        if run.stopping:  # the second signal
            os._exit(130)  # the connection breaks, and RabbitMQ takes the order in hand back
        run.stopping = True
        if run.connecting:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    with contextlib.suppress(KeyboardInterrupt):
        while not run.stopping and run.processed < run.count:
            channel = connect(nodes, math.inf, trouble)
            run.connecting = False
            try:
                consume(channel, run)
            except pika.exceptions.AMQPError as error:
                run.connecting, trouble = True, str(error) or repr(error)
                with contextlib.suppress(pika.exceptions.AMQPError):
                    channel.connection.close()  # where only the channel was lost
    took = f" in {run.ended - run.started:.2f} s" if run.processed else ""
    print(f"Processed {run.processed} order{'s' * (run.processed != 1)}{took}")


if __name__ == "__main__":
    main()
