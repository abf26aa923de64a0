"""consumer.py with basic_ack before the work, or without: wrong_ack.py early | auto"""

import sys
from functools import partialmethod
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel

import consumer

acknowledge, handle = BlockingChannel.basic_ack, consumer.handle_message


def acknowledge_and_handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    acknowledge(channel, method.delivery_tag)
    handle(channel, method, properties, body)


BlockingChannel.basic_ack = lambda *_, **__: None
if sys.argv[1] == "early":
    consumer.handle_message = acknowledge_and_handle
else:
    BlockingChannel.basic_consume = partialmethod(BlockingChannel.basic_consume, auto_ack=True)
consumer.main()
