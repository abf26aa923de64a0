"""FastStream on a quorum queue.

Safest: persistent, one unacknowledged at a time, given back on an error.
"""

import asyncio

from common import QUEUE, SAFEST, URL, work_off
from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

queue = RabbitQueue(QUEUE, queue_type=QueueType.QUORUM, durable=True)
if SAFEST:
    broker = RabbitBroker(
        URL, default_channel=Channel(prefetch_count=1, on_return_raises=True)
    )
else:
    broker = RabbitBroker(URL)


@broker.subscriber(queue, **({"ack_policy": AckPolicy.NACK_ON_ERROR} if SAFEST else {}))
async def process_order(order: dict):
    work_off(order)


if __name__ == "__main__":
    asyncio.run(FastStream(broker).run())
