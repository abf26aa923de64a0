"""Orders for the tests, and a look at what is in the queues."""

import json
from collections import Counter
from collections.abc import Iterator

import pika
from pika.adapters.blocking_connection import BlockingChannel as Channel
from pika.spec import Basic, BasicProperties

QUEUES = ("orders", "orders.dead")
Message = tuple[Basic.GetOk, BasicProperties, bytes]


def ids(prefix: str, count: int) -> list[str]:
    """Return that many order_ids."""
    return [f"{prefix}-{number:05}" for number in range(1, count + 1)]


def order_json(order_id: object, **fields: object) -> bytes:
    """Return an order as JSON in UTF-8; a field that is given replaces the valid one."""
    order = {"customer": "Иван Иванов", "amount": 1249.5, "status": "pending", **fields}
    return json.dumps({"order_id": order_id, **order}, ensure_ascii=False).encode()


def put(channel: Channel, *bodies: bytes, **properties: object) -> None:
    """Declare the queues as any other program would, and store messages in "orders"."""
    for queue in QUEUES:
        channel.queue_declare(queue, durable=True)
    with channel.connection.channel() as own:
        own.confirm_delivery()
        for body in bodies:
            wanted = pika.BasicProperties(delivery_mode=2, **properties)
            own.basic_publish("", "orders", body, wanted, mandatory=True)


def put_orders(channel: Channel, *order_ids: str) -> None:
    """Declare the queues, and store orders."""
    put(channel, *map(order_json, order_ids))


def messages(channel: Channel, queue: str = "orders") -> Iterator[Message]:
    """Take what is in the queue."""
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return
        yield method, properties, body


def ready_count(channel: Channel, queue: str = "orders") -> int:
    """Return how many messages wait in the queue; not those a consumer has."""
    return int(channel.queue_declare(queue, passive=True).method.message_count)


def consumer_count(channel: Channel) -> int:
    """Return how many consumers the queue "orders" has."""
    return int(channel.queue_declare("orders", passive=True).method.consumer_count)


def drain(channel: Channel, *queues: str) -> Counter[str]:
    """Take all that waits in the queues, without any in both; how often each order was there."""
    found: Counter[str] = Counter()
    for queue in queues or QUEUES:
        for _, _, body in messages(channel, queue):
            found[json.loads(body)["order_id"]] += 1
    return found
