# /// script
# requires-python = ">=3.8"
# dependencies = ["pika>=1.3,<2"]
# ///
"""Publish orders to RabbitMQ's queue "orders": python3 producer.py [FILE]

FILE: JSON Lines, "-" is standard input; none: five sample orders. AMQP_URL: where RabbitMQ is."""

import argparse
import contextlib
import json
import logging
import os
import re
import signal
import sys
import time
from decimal import Decimal
from typing import Any, Dict, List, TextIO, Tuple

try:
    import pika  # type: ignore[import-untyped, unused-ignore]
except ImportError:
    sys.exit("pika is missing: python3 -m pip install pika (or: apt install python3-pika)")
logging.getLogger("pika").addHandler(logging.NullHandler())  # connect() tells what matters of it
pika.connection.Parameters.DEFAULT_BLOCKED_CONNECTION_TIMEOUT = 25  # seconds an alarm may last

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


SAMPLES = [{"order_id": f"ORD-00{n}", "customer": customer, "amount": amount, "status": "pending"}
           for n, customer, amount in [(1, "Иван Иванов", 5000), (2, "Мария Петрова", 1249.5),
                                       (3, "John Smith", 320), (4, "Ольга Ким", 7800), (5, "Emma Brown", 150)]]


def read_orders(name: str) -> List[Tuple[str, bytes]]:
    """Return (message_id, body) of each line of a file; ValueError says which holds no order, and why."""
    orders = []
    with open(0 if name == "-" else name, "rb") as lines:
        for number, line in ((number, line) for number, line in enumerate(lines, 1) if line.strip()):
            try:
                message_id = parse_order(line.strip())["order_id"].encode()[:255].decode(errors="ignore")
            except ValueError as error:
                raise ValueError(f"{name}:{number}: {error}") from None
            text = re.sub(r"(\\u[0-9a-fA-F]{4})+|\\.", lambda escape: json.dumps(  # \u0418 becomes И
                json.loads(f'"{escape[0]}"'), ensure_ascii=False)[1:-1], line.decode("utf-8-sig").strip())
            orders.append((message_id, text.encode("utf-8", "backslashreplace")))
    return orders


def publish(orders: List[Tuple[str, bytes]], nodes: List[pika.URLParameters], channel: Any = None) -> None:
    """Publish the orders, 1,000 at a time, and say how many are stored, however it ends."""
    stored, started, trouble = 0, 0.0, ""
    properties = pika.BasicProperties("application/json", delivery_mode=2, timestamp=int(time.time()))

    def confirm(frame: Any) -> None:
        if isinstance(frame.method, pika.spec.Basic.Nack):
            sys.exit(f"RabbitMQ refuses orders: the queue {QUEUE} is full")
        tag = frame.method.delivery_tag
        unconfirmed.difference_update({t for t in unconfirmed if t <= tag} if frame.method.multiple else {tag})
    try:
        while stored < len(orders):
            batch = orders[stored:stored + 1000]
            try:
                if not channel:
                    channel, first, started = connect(nodes, 30, trouble), stored, started or time.monotonic()
                    channel._impl.confirm_delivery(confirm)  # BlockingChannel itself would wait for each
                    channel._impl.add_on_return_callback(lambda *_: sys.exit(f"The queue {QUEUE} was deleted"))
                    channel.connection._impl.add_on_connection_blocked_callback(
                        lambda _, frame: say(f"RabbitMQ holds orders up: {frame.method.reason}", sys.stderr))
                unconfirmed = set(range(stored - first + 1, stored - first + len(batch) + 1))
                for properties.message_id, body in batch:
                    channel._impl.basic_publish("", QUEUE, body, properties, mandatory=True)
                channel._flush_output(lambda tags=unconfirmed: not tags)  # returns once it is true
                stored += len(batch)
                for _, body in batch if len(orders) <= 20 else []:
                    say(f"Sent {body.decode()}")
                if len(orders) > 20 and os.isatty(2):
                    print(f"{stored} of {len(orders)} orders stored", end="\r", file=sys.stderr)
            except pika.exceptions.AMQPConnectionError as error:
                say(f"{batch[0][0]} to {batch[-1][0]} may come twice", sys.stderr)
                channel, trouble = None, str(error) or repr(error)
        say(f"{stored} order{'s' * (stored != 1)} stored in {time.monotonic() - started if started else 0:.3f} s")
        with contextlib.suppress(Exception):  # all is said and stored
            channel.connection.close()
    finally:
        if started and stored < len(orders):
            say(f"{stored} of {len(orders)} orders stored for sure, the rest may or may not be", sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("FILE", nargs="?")
    name, nodes = parser.parse_args().FILE, parse_urls(os.environ.get("AMQP_URL", ""))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as honest as Ctrl-C
    try:
        samples = [(str(o["order_id"]), json.dumps(o, ensure_ascii=False).encode()) for o in SAMPLES]
        publish(read_orders(name) if name is not None else samples, nodes)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    except (pika.exceptions.AMQPError, KeyboardInterrupt) as error:
        sys.exit(f"RabbitMQ: {error}" if isinstance(error, Exception) else 130)


if __name__ == "__main__":
    main()
