"""Send the orders with aio-pika, each confirmed.

Safest: persistent, and 500 at once, which is as safe.
"""

import asyncio

import aio_pika
from common import QUEUE, QUORUM, SAFEST, URL, orders, stored


async def main():
    async with await aio_pika.connect_robust(URL) as connection:
        channel = await connection.channel()
        await channel.declare_queue(QUEUE, durable=True, arguments=QUORUM)
        exchange = channel.default_exchange
        bodies = orders()
        if not SAFEST:
            for body in bodies:
                await exchange.publish(aio_pika.Message(body), QUEUE)
            return
        for begin in range(0, len(bodies), 500):
            messages = (
                aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                for body in bodies[begin : begin + 500]
            )
            await asyncio.gather(
                *(exchange.publish(message, QUEUE) for message in messages)
            )


asyncio.run(main())
stored()
