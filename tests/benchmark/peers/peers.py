"""What ours is compared with: python peers.py FUNCTION [SETTING] [FILE TO PUBLISH]."""

import asyncio
import json
import os
import sys
from pathlib import Path

URL = os.environ["AMQP_URL"]
QUEUE = "orders"
QUORUM = {"x-queue-type": "quorum"}


def orders(file):
    return Path(file).read_bytes().splitlines()


def process_order(order):
    """Write two lines, to the real stdout: some workers put a log in its place."""
    print("Received", order["order_id"], file=sys.__stdout__, flush=True)
    print("Processed", order["order_id"], file=sys.__stdout__, flush=True)


def pika(setting, file=None):
    """Do as RabbitMQ's tutorial does in part two."""
    from pika import BasicProperties, BlockingConnection, DeliveryMode, URLParameters

    def callback(channel, method, properties, body):
        process_order(json.loads(body))
        channel.basic_ack(method.delivery_tag)

    connection = BlockingConnection(URLParameters(URL))
    channel = connection.channel()
    channel.queue_declare(QUEUE, durable=True, arguments=QUORUM)
    if setting == "drain":
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(QUEUE, callback)
        channel.start_consuming()
    if setting == "confirm_delivery":
        channel.confirm_delivery()
    persistent = BasicProperties(delivery_mode=DeliveryMode.Persistent)
    for body in orders(file):
        channel.basic_publish("", QUEUE, body, persistent)
    connection.close()


async def aio_pika(setting, file=None):
    """Publish so many at once, confirmed, persistent; or drain, working in a thread."""
    from aio_pika import Message, connect_robust

    async with await connect_robust(URL) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        queue = await channel.declare_queue(QUEUE, durable=True, arguments=QUORUM)
        if setting == "drain":
            async for message in queue.iterator():
                async with message.process(requeue=True):
                    await asyncio.to_thread(process_order, json.loads(message.body))
        publish = channel.default_exchange.publish
        bodies, at_once = orders(file), int(setting)
        for i in range(0, len(bodies), at_once):
            batch = (Message(body, delivery_mode=2) for body in bodies[i : i + at_once])
            await asyncio.gather(*(publish(message, QUEUE) for message in batch))


async def faststream(file):
    from faststream.rabbit import QueueType, RabbitBroker, RabbitQueue

    queue = RabbitQueue(QUEUE, queue_type=QueueType.QUORUM, durable=True)
    async with RabbitBroker(URL) as broker:
        await broker.declare_queue(queue)
        for body in orders(file):
            await broker.publish(json.loads(body), queue, persist=True)


def celery(file=None):
    from celery import Celery

    app = Celery(broker=URL)
    app.conf.task_default_queue = QUEUE
    app.conf.task_default_queue_type = "quorum"
    app.conf.broker_transport_options = {"confirm_publish": True}
    app.conf.task_acks_late = app.conf.task_reject_on_worker_lost = True
    app.conf.worker_prefetch_multiplier = 1
    task = app.task(process_order, name="process_order")
    if file is None:
        app.worker_main(["--quiet", "worker", "--concurrency", "1"])
    for body in orders(file):
        task.delay(json.loads(body))


def dramatiq(file=None):
    from dramatiq import actor, set_broker
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    set_broker(RabbitmqBroker(url=URL, confirm_delivery=True))
    task = actor(process_order, queue_name=QUEUE)
    for body in orders(file) if file else []:  # without: its command line drains
        task.send(json.loads(body))


if __name__ == "__main__":
    result = globals()[sys.argv[1]](*sys.argv[2:])
    if asyncio.iscoroutine(result):
        asyncio.run(result)
    print("all orders stored", flush=True)
