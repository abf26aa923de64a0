"""consumer.py with other work: a JSON object names one of these functions, and its settings."""

import json
import sys

import consumer

change = json.loads(sys.argv[1])
failures = 0


def nothing(order: dict) -> None:
    """Take no time."""


def gate(order: dict) -> None:
    """Wait until the test opens the gate: until it closes standard input."""
    sys.stdin.read()


def failure(order: dict) -> None:
    """Fail on the order `on`, the first `times` times."""
    global failures
    if order["order_id"] == change["on"] and failures < change["times"]:
        failures += 1
        error = ValueError if failures % 2 else OSError  # any exception is a failure
        raise error("the card was declined")


consumer.process_order = globals()[change["work"]]
consumer.PAUSE = change.get("pause", consumer.PAUSE)
consumer.main()
