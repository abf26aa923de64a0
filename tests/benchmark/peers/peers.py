"""What ours is compared with: python peers.py LIBRARY [FILE TO PUBLISH [ORDERS AT ONCE]]."""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

URL = os.environ["AMQP_URL"]
QUEUE = "orders"
QUORUM = {"x-queue-type": "quorum"}
# force, and the real stderr: Dramatiq has put its own in their place.
logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.__stderr__, force=True)


def stored(body):
    """Log what producer.py logs; as a warning, as the libraries inform of things, too."""
    logging.warning(f"Stored {json.loads(body)['order_id']!r}")


def process_order(order):
    """Log what consumer.py logs, and do no work."""
    logging.warning(f"Received {order['order_id']!r}: {order['customer']!r}")
    logging.warning(f"Processed {order['order_id']!r}")


def pika(bodies):
    """Publish confirmed, or do what the worker in part two of RabbitMQ's tutorial does."""
    from pika import BasicProperties, BlockingConnection, URLParameters

    def callback(channel, method, properties, body):
        process_order(json.loads(body))
        channel.basic_ack(method.delivery_tag)

    channel = BlockingConnection(URLParameters(URL)).channel()
    channel.queue_declare(QUEUE, durable=True, arguments=QUORUM)
    if not bodies:
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(QUEUE, callback)
        channel.start_consuming()
    channel.confirm_delivery()
    for body in bodies:
        channel.basic_publish("", QUEUE, body, BasicProperties(delivery_mode=2))
        stored(body)


async def aio_pika(bodies, at_once=1):
    """Publish confirmed, so many orders at once; or work in a thread."""
    from aio_pika import Message, connect_robust

    async with await connect_robust(URL) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        queue = await channel.declare_queue(QUEUE, durable=True, arguments=QUORUM)
        if not bodies:
            async for message in queue.iterator():
                async with message.process(requeue=True):
                    await asyncio.to_thread(process_order, json.loads(message.body))
        publish, size = channel.default_exchange.publish, int(at_once)
        for batch in (bodies[i : i + size] for i in range(0, len(bodies), size)):
            messages = [Message(body, delivery_mode=2) for body in batch]
            await asyncio.gather(*(publish(message, QUEUE) for message in messages))
            for body in batch:
                stored(body)


def celery(bodies):
    """Publish confirmed, or work and acknowledge afterwards."""
    from celery import Celery

    app = Celery(broker=URL)
    app.conf.update(task_default_queue=QUEUE, task_default_queue_type="quorum")
    app.conf.broker_transport_options = {"confirm_publish": True}
    app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True)
    app.conf.update(worker_prefetch_multiplier=1, worker_hijack_root_logger=False)
    task = app.task(process_order, name="process_order")
    if not bodies:
        app.worker_main(["--quiet", "worker", "--concurrency", "1"])
    for body in bodies:
        task.delay(json.loads(body))
        stored(body)


def dramatiq(bodies=()):
    """Publish confirmed, or only declare the work: Dramatiq's own program runs it."""
    from dramatiq import actor, set_broker
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    set_broker(RabbitmqBroker(url=URL, confirm_delivery=True))
    task = actor(process_order, queue_name=QUEUE)
    for body in bodies:
        task.send(json.loads(body))
        stored(body)


if __name__ == "__main__":
    library, *file = sys.argv[1:3]
    lines = Path(file[0]).read_bytes().splitlines() if file else []
    result = globals()[library](lines, *sys.argv[3:])
    if asyncio.iscoroutine(result):
        asyncio.run(result)
