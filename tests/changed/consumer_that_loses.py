"""consumer.py with basic_ack in the wrong place, which loses orders if the consumer is killed.

consumer_that_loses.py early: before the work. consumer_that_loses.py auto: with auto_ack=True.
"""

import logging
import sys
from functools import partialmethod
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel

import consumer


def handle_message(channel: BlockingChannel, method: Any, body: bytes) -> None:
    """Acknowledge, and then process the order."""
    order = consumer.parse_order(body)
    if sys.argv[1] == "early":
        channel.basic_ack(method.delivery_tag)
    logging.info(f"Received {order['order_id']!r}")
    consumer.process_order(order)
    logging.info(f"Processed {order['order_id']!r}")


consumer.handle_message = handle_message
if sys.argv[1] == "auto":
    BlockingChannel.consume = partialmethod(BlockingChannel.consume, auto_ack=True)
consumer.main()
