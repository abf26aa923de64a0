"""consumer.py with work that does what the order says"""

import logging
import sys
from collections import Counter

import consumer

tries = Counter()


def process_order(order: dict) -> None:
    """Take no time, and log it, unless the order says something else.

    "waits": until the test closes standard input. "fails": so many times, in this process.
    "refused": why it is refused for good.
    """
    logging.debug("nobody wants to see this")
    tries[order["order_id"]] += 1
    if "waits" in order:
        logging.info(f"Works on {order['order_id']!r}")
        sys.stdin.read()
    if tries[order["order_id"]] <= order.get("fails", 0):
        raise Exception("the card was declined")
    if "refused" in order:
        raise consumer.InvalidOrder(order["refused"])
    logging.info(f"Worked on {order['order_id']!r}")
    order.clear()  # work may change its order


consumer.process_order = process_order
consumer.PAUSE = 0
consumer.main()
