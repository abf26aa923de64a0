"""What the peers share: where the orders come from, and the work that is none."""

import json
import os
import sys

URL = os.environ["AMQP_URL"]
QUEUE = "peer"
QUORUM = {"x-queue-type": "quorum"}
SAFEST = os.environ["PEER_SETTING"] == "safest"  # or default


def orders():
    """Return the lines of the file that the command line names."""
    with open(sys.argv[1], "rb") as lines:
        return lines.read().splitlines()


def work_off(order):
    """Leave the same two lines as consumer.py."""
    # On the real stdout: some workers put a log in its place.
    print("Received", order["order_id"], file=sys.__stdout__, flush=True)
    print("Processed", order["order_id"], file=sys.__stdout__, flush=True)


def work_off_body(body):
    work_off(json.loads(body))


def stored():
    """Say that every order has been sent, and confirmed where the setting confirms."""
    print("stored", flush=True)
