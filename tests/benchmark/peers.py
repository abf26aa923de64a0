"""What ours is compared with: peers.py EVENT NAME LOG_LINES, the orders at standard input.

EVENT is "Stored" to publish them, "Processed" to drain the queue, which has them. LOG_LINES is
"all" for those that ours writes, "none" for those of the first and the last order alone.
"""

import asyncio
import json
import logging
import os
import sys
from typing import Any

import aio_pika
import pika

event, name, log_lines = sys.argv[1:]
url, bodies = os.environ["AMQP_URL"], sys.stdin.buffer.read().splitlines()
logged = {bodies[0], bodies[-1]} if log_lines == "none" else set(bodies)
logging.basicConfig(format="%(asctime)s %(message)s")


def done(body: bytes) -> None:
    """Read an order and log what ours logs; as a warning, as the libraries inform, too."""
    order = json.loads(body)
    if body in logged:
        if event == "Processed":
            logging.warning(f"Received {order['order_id']!r}: {order['customer']!r}")
        logging.warning(f"{event} {order['order_id']!r} (line 1)")


def on_message(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    """Do what the worker in part two of RabbitMQ's tutorial does."""
    done(body)
    channel.basic_ack(method.delivery_tag)


def with_pika() -> None:
    """Publish with confirmation, or drain."""
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    if event == "Processed":
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume("orders", on_message)
        channel.start_consuming()
    channel.confirm_delivery()
    for body in bodies:
        channel.basic_publish("", "orders", body, pika.BasicProperties(delivery_mode=2))
        done(body)


async def with_aio_pika() -> None:
    """Work in a thread, and acknowledge afterwards."""
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        async for message in (await channel.get_queue("orders")).iterator():
            async with message.process(requeue=True):
                await asyncio.to_thread(done, message.body)


asyncio.run(with_aio_pika()) if name.startswith("aio-pika") else with_pika()
