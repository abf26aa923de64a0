"""Orders for the tests, and a look at what is in the queues."""

import json
from pathlib import Path
from typing import Any, Counter, Dict, Iterable, Iterator, List

import pika

from rig.broker import Broker


def an_order(order_id: str) -> Dict[str, Any]:
    """Return an order of that name."""
    return {
        "order_id": order_id,
        "customer": "John Smith",
        "amount": 1249.5,
        "status": "pending",
    }


def names(prefix: str, count: int) -> List[str]:
    """Return that many order names."""
    return [f"{prefix}-{number:05}" for number in range(1, count + 1)]


def orders_text(ids: Iterable[str]) -> str:
    """Return one order a line, for producer.py."""
    return "".join(f"{json.dumps(an_order(order_id))}\n" for order_id in ids)


def write_orders(path: Path, ids: Iterable[str]) -> Path:
    """Write the same to a file."""
    path.write_text(orders_text(ids))
    return path


def messages(channel: Any, queue: str) -> Iterator[Any]:
    """Take what is in the queue: (method, properties, body) of each message."""
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return
        yield method, properties, body


def ready(channel: Any, queue: str = "orders") -> int:
    """Return how many messages wait in the queue; not those a consumer has."""
    return int(channel.queue_declare(queue, passive=True).method.message_count)


def drain(channel: Any, queue: str = "orders") -> Counter[str]:
    """Take all that waits in the queue; how often each message_id was there."""
    left = ready(channel, queue)
    found: Counter[str] = Counter()
    for _, properties, _ in channel.consume(queue, auto_ack=True) if left else ():
        found[properties.message_id] += 1
        left -= 1
        if not left:
            channel.cancel()
            break
    return found


def declared(broker: Broker) -> bool:
    """Tell whether the queue is there."""
    with broker.connect() as connection:
        try:
            return bool(connection.channel().queue_declare("orders", passive=True))
        except pika.exceptions.ChannelClosedByBroker:
            return False
