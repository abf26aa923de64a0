"""Orders for the tests, and a look at what is in the queues."""

import json

import pika
from pika.adapters.blocking_connection import BlockingChannel as Channel

from rig.waiting import wait_until


def ids(prefix: str, last: int, first: int = 1) -> list[str]:
    return [f"{prefix}-{number:05}" for number in range(first, last + 1)]


SAMPLE_IDS = [f"ORD-00{number}" for number in range(1, 6)]  # those of producer.py


def order_json(order_id: object, **fields: object) -> bytes:
    """Return an order as JSON in UTF-8; a field that is given replaces the valid one."""
    order = {"customer": "Иван Иванов", "amount": 1249.5, "status": "pending", **fields}
    return json.dumps({"order_id": order_id, **order}, ensure_ascii=False).encode()


def put(channel: Channel, *bodies: bytes) -> None:
    """Declare the queue as any other program would, and store messages in it."""
    channel.queue_declare("orders", durable=True)
    channel.confirm_delivery()
    persistent = pika.BasicProperties(delivery_mode=2)
    for body in bodies:
        channel.basic_publish("", "orders", body, persistent, mandatory=True)


def counts(channel: Channel, queue: str = "orders") -> tuple[int, int]:
    """Return how many messages wait in the queue (no consumer has them), and its consumers."""
    found = channel.queue_declare(queue, passive=True).method
    return found.message_count, found.consumer_count


def wait_for_ready(channel: Channel, ready: int, queue: str = "orders") -> None:
    """Wait until so many messages wait in the queue, and it has no consumer."""

    def seen() -> tuple[int, int]:
        return counts(channel, queue)

    wait_until(lambda: seen() == (ready, 0), f"({ready}, 0) in {queue}", seen=seen)


def take_all(channel: Channel, queue: str = "orders") -> list[bytes]:
    bodies = []
    while (body := channel.basic_get(queue, auto_ack=True)[2]) is not None:
        bodies.append(body)
    return bodies


def take_ids(channel: Channel, queue: str = "orders") -> list[str]:
    """Take the orders that wait in the queue; return their order_ids."""
    return [json.loads(body)["order_id"] for body in take_all(channel, queue)]
