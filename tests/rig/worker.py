"""consumer.py with work that does what the order says, and no pause after a failure"""

import logging
import sys

import consumer


def process_order(order: dict) -> None:
    """Take no time, unless the order waits (for the end of standard input), fails or is refused."""
    if "waits" in order:
        logging.info(f"Works on {order['order_id']!r}")
        sys.stdin.read()
    if "fails" in order:
        raise Exception("the card was declined")
    if "refused" in order:
        raise consumer.InvalidOrder(order["refused"])
    order.clear()  # work may change its order


consumer.process_order = process_order
consumer.PAUSE = 0
consumer.main()
