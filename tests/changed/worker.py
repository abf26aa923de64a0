"""consumer.py with work that does what the order says: worker.py [PAUSE [early | auto]]

With "early" it calls basic_ack before the work, with "auto" it has auto_ack=True.
"""

import sys
import time
from collections import Counter
from functools import partialmethod
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel

import consumer

KNOWN = {*consumer.FIELDS, "seconds", "waits", "exits", "fails", "refused"}
tries = Counter[str]()
acknowledge, handle = BlockingChannel.basic_ack, consumer.handle_message


class Declined(Exception):
    """An error of a kind of the user's own."""


def process_order(order: dict) -> None:
    """Take no time, unless the order says something else.

    "seconds": to sleep. "waits": until the test closes standard input. "exits": by sys.exit().
    "fails": so many times, in this process. "refused": why it is refused for good.
    """
    assert order.keys() <= KNOWN, "a misspelt field"
    tries[order["order_id"]] += 1
    time.sleep(order.get("seconds", 0))
    if "waits" in order:
        sys.stdin.read()
    if "exits" in order:
        sys.exit("no disk")
    if tries[order["order_id"]] <= order.get("fails", 0):
        raise Declined("the card was declined")
    if "refused" in order:
        raise consumer.InvalidOrder(order["refused"])


def acknowledge_and_handle(channel: BlockingChannel, method: Any, body: bytes) -> None:
    """Do it in the wrong order."""
    acknowledge(channel, method.delivery_tag)
    handle(channel, method, body)


consumer.process_order = process_order
if sys.argv[1:]:
    consumer.PAUSE = int(sys.argv[1])
if sys.argv[2:]:
    BlockingChannel.basic_ack = lambda *_, **__: None
    if sys.argv[2] == "early":
        consumer.handle_message = acknowledge_and_handle
    else:
        BlockingChannel.consume = partialmethod(BlockingChannel.consume, auto_ack=True)
consumer.main()
