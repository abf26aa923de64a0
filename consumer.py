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
logging.getLogger("pika").addHandler(logging.NullHandler())  # connect() tells what matters of it

QUEUE, DEAD_LETTER_QUEUE = "orders", "orders.dead"  # from here to connect(): the same in both scripts
QUEUES: Dict[str, Dict[str, Any]] = {  # quorum: what is confirmed is on disk, on most of the nodes
    # Without a limit of its own, RabbitMQ 4 drops what was looked at and put back 20 times.
    DEAD_LETTER_QUEUE: {"x-queue-type": "quorum", "x-delivery-limit": 2_000_000_000},
    QUEUE: {"x-queue-type": "quorum", "x-delivery-limit": 19,  # dead when given back the 20th time
            "x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD_LETTER_QUEUE,
            "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"},
}
HOPELESS = {  # patterns of errors that waiting does not mend, and what does
    "ACCESS_REFUSED": "Check the user, the password and the permissions (AMQP_URL).",
    "NOT_ALLOWED(?!.*limit)": "Check the vhost (AMQP_URL), or add it: rabbitmqctl add_vhost NAME",
    "arg '": "This removes the queue, and all in it: rabbitmqctl -p {vhost} delete_queue {queue}",
    "CERTIFICATE_VERIFY_FAILED": "Name the authority that you trust: SSL_CERT_FILE=ca.pem",
    "Blocked connection": "Free memory or disk where RabbitMQ runs, then publish the rest.",
}


def say(text: str, file: TextIO = sys.stdout) -> None:
    """Print the time and one line: at most 500 characters, and escapes for those that steer a terminal."""
    text = text.encode(code := getattr(file, "encoding", "ascii"), "backslashreplace").decode(code)
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
        raise ValueError(f"not JSON in UTF-8: {error}".replace("line 1 ", "")) from None
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
            nodes.append(pika.URLParameters(re.findall("^amqps?://[^/?#]*(?:[/?#][^@]*)?$", url)[0]))
        except Exception as error:  # the query after the ? can raise about anything
            known = re.match(r"Unknown|Invalid|Expected|\[Errno", str(error))
            problem = error if known else "must look like amqp://USER:PASSWORD@HOST:5672/VHOST"
            secret = r":(?!//)(?!\d*([/?][^@]*)?$).*?(?=@[^@]*$|$)"  # what is no port, up to the last @
            say(f"AMQP_URL {re.sub(secret, ':***', url, count=1).partition('?')[0]}: {problem}", sys.stderr)
            sys.exit(2)
    return nodes


def connect(nodes: List[pika.URLParameters], patience: float, trouble: str = "", channel: Any = None) -> Any:
    """Return a channel, the queues declared; exits with 1 after `patience` seconds, or if hopeless."""
    where = ", ".join(f"{node.host}:{node.port}" for node in nodes)
    user, vhost = nodes[-1].credentials.username, nodes[-1].virtual_host
    deadline, waiting, queue = time.monotonic() + patience, False, ""
    while True:
        advice = [text for sign, text in HOPELESS.items() if re.search(sign, trouble)]
        if advice or time.monotonic() > deadline:
            hint = "".join(advice or ["Is it up, and is AMQP_URL right?"]).format(queue=queue, vhost=vhost)
            sys.exit(f"RabbitMQ at {where}, user {user}, vhost {vhost}: {trouble}\n{hint}")
        if trouble and not waiting:
            say(f"No connection to RabbitMQ at {where}, trying again every second: {trouble}", sys.stderr)
            waiting = True
        time.sleep(1 if waiting else 0)
        with contextlib.suppress(Exception):
            channel.connection.close()  # where only the channel was lost
        try:
            channel = pika.BlockingConnection(nodes).channel()
            for queue, arguments in QUEUES.items():
                channel.queue_declare(queue, durable=True, arguments=arguments)
            if waiting:
                say(f"Connected to RabbitMQ at {where}", sys.stderr)
            return channel
        except Exception as error:  # pika lets OSError and errors of no family through
            trouble = str(getattr(next(iter(error.args), error), "exception", error)) or repr(error)


def process_order(order: Dict[str, Any], channel: Any, seconds: float) -> None:
    """Stand in for the real work; an order for which this raises is dead-lettered."""
    channel.connection.sleep(seconds)  # time.sleep would starve the connection's heartbeats


def consume(channel: Any, state: argparse.Namespace) -> None:
    """Process the deliveries one by one and settle each, until it is time to stop."""
    channel.basic_qos(prefetch_count=1)
    for method, properties, body in channel.consume(QUEUE, inactivity_timeout=0.5):
        done = ""  # the order_id, once the order is processed
        if method:
            state.started = state.started or time.monotonic()
            try:
                order = parse_order(body)
                order_id, again = order["order_id"], " (redelivered)" if method.redelivered else ""
                say(f"Received {order_id}{again}: {order['customer']:.80}, {order['amount']!s:.40}")
                process_order(order, channel, state.processing_time)
                done = order_id
            except pika.exceptions.AMQPError:
                raise  # not the order's fault: it comes again
            except Exception as error:
                what = f"{properties.message_id or 'a message'!s:.80}"
                say(f"Rejected {what} to {DEAD_LETTER_QUEUE}: {type(error).__name__}: {error}", sys.stderr)
        last = state.stopping or state.processed + bool(done) == state.count
        if last:
            channel.cancel()  # before the acknowledgement, which would bring the next order
        if done:
            channel.basic_ack(method.delivery_tag)
            state.processed, state.ended = state.processed + 1, time.monotonic()
            say(f"Processed {done}")
        elif method:
            channel.basic_reject(method.delivery_tag, requeue=False)
        if last:
            channel.connection.close()
            return
    raise pika.exceptions.ConsumerCancelled(f"queue {QUEUE} was deleted")  # RabbitMQ ended the loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processing-time", type=float, default=2, metavar="SECONDS", help="default: 2")
    parser.add_argument("--count", type=int, default=math.inf, metavar="N", help="orders to process")
    # What has been done so far, and what the signal handler needs to know.
    parser.set_defaults(processed=0, started=0.0, ended=0.0, connecting=True, stopping=False)
    state, nodes = parser.parse_args(), parse_urls(os.environ.get("AMQP_URL", ""))
    channel, trouble = None, ""
    if not 0 <= state.processing_time < 1e6 or state.count < 1:
        parser.error("SECONDS must be a number, 0 or more, and N must be 1 or more")

    def stop(signum: int, frame: Any) -> None:
        if state.stopping:  # the second signal
            os._exit(130)  # the connection breaks, and RabbitMQ takes the order in hand back
        state.stopping = True
        if state.connecting:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    with contextlib.suppress(KeyboardInterrupt):
        while not state.stopping and state.processed < state.count:
            channel = connect(nodes, math.inf, trouble, channel)
            state.connecting = False
            try:
                consume(channel, state)
            except pika.exceptions.AMQPError as error:
                state.connecting, trouble = True, str(error) or repr(error)
    took = f" in {state.ended - state.started:.2f} s" if state.processed else ""
    print(f"Processed {state.processed} order{'s' * (state.processed != 1)}{took}")


if __name__ == "__main__":
    main()
