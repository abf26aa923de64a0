"""Send the orders with FastStream, each confirmed. Safest: persistent."""

import asyncio
import json

from common import QUEUE, SAFEST, URL, orders, stored
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue


async def main():
    queue = RabbitQueue(QUEUE, queue_type=QueueType.QUORUM, durable=True)
    async with RabbitBroker(
        URL, default_channel=Channel(on_return_raises=SAFEST)
    ) as broker:
        await broker.declare_queue(queue)
        for body in orders():
            await broker.publish(json.loads(body), queue, persist=SAFEST)


asyncio.run(main())
stored()
