"""Work off the orders with aio-pika. Safest: one unacknowledged at a time, given back on an error."""

import asyncio

import aio_pika
from common import QUEUE, QUORUM, SAFEST, URL, work_off_body


async def main():
    async with await aio_pika.connect_robust(URL) as connection:
        channel = await connection.channel()
        if SAFEST:
            await channel.set_qos(prefetch_count=1)
        queue = await channel.declare_queue(QUEUE, durable=True, arguments=QUORUM)
        async with queue.iterator() as deliveries:
            async for message in deliveries:
                async with message.process(requeue=SAFEST):
                    work_off_body(message.body)


asyncio.run(main())
