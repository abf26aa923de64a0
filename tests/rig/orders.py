"""Orders for the tests, a look at what is in the queues, and who may use them."""

import json
import time
from collections import Counter
from collections.abc import Iterator

import pika
from pika.adapters.blocking_connection import BlockingChannel as Channel
from pika.spec import Basic, BasicProperties, Queue

Message = tuple[Basic.GetOk, BasicProperties, bytes]


def ids(prefix: str, count: int) -> list[str]:
    """Return that many order_ids."""
    return [f"{prefix}-{number:05}" for number in range(1, count + 1)]


def order_json(order_id: object, **fields: object) -> bytes:
    """Return an order as JSON in UTF-8; a field that is given replaces the valid one."""
    order = {"customer": "Иван Иванов", "amount": 1249.5, "status": "pending", **fields}
    return json.dumps({"order_id": order_id, **order}, ensure_ascii=False).encode()


# What the scripts have to declare.
QUEUES = {
    "orders": {
        "x-queue-type": "quorum",
        "x-delivery-limit": 20,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "orders.dead",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    },
    "orders.dead": {"x-queue-type": "quorum", "x-delivery-limit": 2_000_000_000},
}

# What the README says that a user has to be allowed.
RIGHTS = {"configure": r"^orders(\.dead)?$", "write": r"^amq\.default$", "read": "^orders$"}
ALL = dict.fromkeys(RIGHTS, ".*")
FULL_AT_200 = {"pattern": "^orders$", "apply-to": "queues", "definition": {"max-length": 200}}
# What the shared node loads when it boots: by rabbitmqctl it takes two seconds a line.
DEFINITIONS = {
    "users": [
        {"name": "guest", "password": "guest", "tags": ""},
        {"name": "documented", "password": "s3cret", "tags": ""},
    ],
    "vhosts": [{"name": "/"}, {"name": "short"}],
    "permissions": [
        {"user": "guest", "vhost": "/", **ALL},
        {"user": "guest", "vhost": "short", **ALL},
        {"user": "documented", "vhost": "/", **RIGHTS},
    ],
    "policies": [{"vhost": "short", "name": "short", "priority": 0, **FULL_AT_200}],
}


def put(channel: Channel, *bodies: bytes, confirm: bool = True, **properties: object) -> None:
    """Declare the queues as the scripts do, and store the bodies; ten times as fast unconfirmed."""
    for queue, arguments in QUEUES.items():
        channel.queue_declare(queue, durable=True, arguments=arguments)
    own = channel.connection.channel()
    if confirm:
        own.confirm_delivery()
    wanted = pika.BasicProperties(delivery_mode=2, **properties)
    for body in bodies:
        own.basic_publish("", "orders", body, wanted, mandatory=True)
    own.close()


def put_orders(channel: Channel, *order_ids: str) -> None:
    """Declare the queues as the scripts do, and store orders."""
    put(channel, *map(order_json, order_ids))


def messages(channel: Channel, queue: str = "orders") -> Iterator[Message]:
    """Take what is in the queue."""
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return
        yield method, properties, body


def counts(channel: Channel, queue: str = "orders") -> Queue.DeclareOk:
    """Return RabbitMQ's message_count (of those that are ready) and consumer_count.

    They are 0, too, if the queue has no leader at the moment, or one that does not answer
    within 250 ms: so it is asked ten times before a 0 is believed.
    """
    for _ in range(10):
        found = channel.queue_declare(queue, passive=True).method
        if found.message_count or found.consumer_count:
            break
        time.sleep(0.01)
    return found


def ready_count(channel: Channel, queue: str = "orders") -> int:
    """Return how many messages wait in the queue; not those a consumer has."""
    return int(counts(channel, queue).message_count)


def drain(channel: Channel, *queues: str) -> Counter[str]:
    """Take all that waits in the queues, without any in both; how often each order was there."""
    found: Counter[str] = Counter()
    for queue in queues or QUEUES:
        for _, _, body in messages(channel, queue):
            found[json.loads(body)["order_id"]] += 1
    return found
