"""Work off the orders with aio-pika; with the argument "thread", do it in a thread.

Safest: one unacknowledged at a time, given back on an error.
"""

import asyncio
import sys

import aio_pika
from common import QUEUE, QUORUM, SAFEST, URL, work_off_body

IN_A_THREAD = sys.argv[1:] == ["thread"]


async def main():
    async with await aio_pika.connect_robust(URL) as connection:
        channel = await connection.channel()
        if SAFEST:
            await channel.set_qos(prefetch_count=1)
        queue = await channel.declare_queue(QUEUE, durable=True, arguments=QUORUM)
        async with queue.iterator() as deliveries:
            async for message in deliveries:
                async with message.process(requeue=SAFEST):
                    if IN_A_THREAD:
                        await asyncio.to_thread(work_off_body, message.body)
                    else:
                        work_off_body(message.body)


asyncio.run(main())
