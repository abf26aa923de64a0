"""Orders for the tests, and a look at what is in the queues."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pika

import consumer


def an_order(order_id: str, /, **fields: Any) -> dict[str, Any]:
    """Return an order of that name."""
    order = {"order_id": order_id, "customer": "Иван Иванов", "amount": 1249.5}
    return {**order, "status": "pending", **fields}


def names(prefix: str, count: int) -> list[str]:
    """Return that many order names."""
    return [f"{prefix}-{number:05}" for number in range(1, count + 1)]


def line(order_id: str, /, **fields: Any) -> bytes:
    """Return an order as JSON in UTF-8."""
    return json.dumps(an_order(order_id, **fields), ensure_ascii=False).encode()


def orders_text(ids: Iterable[str]) -> bytes:
    """Return one order a line, for producer.py."""
    return b"".join(line(order_id) + b"\n" for order_id in ids)


def write_orders(path: Path, ids: Iterable[str]) -> Path:
    """Write the same to a file."""
    path.write_bytes(orders_text(ids))
    return path


def put(channel: Any, *bodies: bytes, **properties: Any) -> None:
    """Declare the queues as the scripts do, and store the bodies in `orders`."""
    for queue, arguments in consumer.QUEUES.items():
        channel.queue_declare(queue, durable=True, arguments=arguments)
    own = channel.connection.channel()
    own.confirm_delivery()
    wanted = pika.BasicProperties(delivery_mode=2, **properties)
    for body in bodies:
        own.basic_publish("", "orders", body, wanted, mandatory=True)
    own.close()


def messages(channel: Any, queue: str = "orders") -> Iterator[Any]:
    """Take what is in the queue: (method, properties, body) of each message."""
    while True:
        message = channel.basic_get(queue, auto_ack=True)
        if message[0] is None:
            return
        yield message


def counts(channel: Any, queue: str = "orders") -> Any:
    """Return RabbitMQ's message_count and consumer_count of the queue.

    They are 0, too, if the queue has no leader at the moment, or one that does not answer
    within 250 ms: so it is asked ten times before a 0 is believed.
    """
    for _ in range(10):
        found = channel.queue_declare(queue, passive=True).method
        if found.message_count or found.consumer_count:
            break
        time.sleep(0.01)
    return found


def ready(channel: Any, queue: str = "orders") -> int:
    """Return how many messages wait in the queue; not those a consumer has."""
    return int(counts(channel, queue).message_count)


def consumers(channel: Any) -> int:
    """Return how many consumers `orders` has; 0 where there is no such queue."""
    own = channel.connection.channel()
    try:
        found = int(counts(own).consumer_count)
        own.close()
        return found
    except pika.exceptions.ChannelClosedByBroker:
        return 0


def drain(channel: Any, queue: str = "orders") -> Counter[str]:
    """Take all that waits in the queue; how often each order was there.

    A message that is no JSON counts under its text.
    """
    found: Counter[str] = Counter()
    for _, _, body in messages(channel, queue):
        text = body.decode()
        found[json.loads(text)["order_id"] if text.startswith("{") else text] += 1
    return found
