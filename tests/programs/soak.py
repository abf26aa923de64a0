"""Publish and process at full speed, kill consumers and RabbitMQ at random; then count.

soak.py [SECONDS]. Exits with 1 if an order was lost or dead-lettered, and keeps the node's folder.
"""

import itertools
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from rig.changes import patient, work_takes
from rig.node import LIMIT, Node, running_node, wait_until
from rig.orders import drain, ids, ready_count
from rig.scripts import start_consumer, start_producer
from rig.tools import run, versions

KILLED, STOPPED, CONSUMER = "RabbitMQ killed", "RabbitMQ stopped", "consumers killed"
ROUND = [KILLED, CONSUMER, STOPPED, *[CONSUMER] * 5]


def count(
    stored: set[str], worked: Counter[str], left: Counter[str], dead: Counter[str]
) -> dict[str, int]:
    """Return what became of the orders that producers have called stored.

    `worked` says how often the work on an order was done; `left` and `dead` are what is in the
    two queues in the end.
    """
    return {
        "orders stored": len(stored),
        "processed more than once": sum(number > 1 for number in worked.values()),
        "in orders.dead": dead.total(),
        "lost": len(stored - worked.keys() - left.keys() - dead.keys()),
    }


def soak(node: Node, seconds: float) -> dict[str, int]:
    """Run two producers and three consumers, at least until each fault has come once."""
    faults = dict.fromkeys((CONSUMER, KILLED, STOPPED), 0)
    stored, worked, numbers = set[str](), Counter[str](), itertools.count(1)
    with ExitStack() as stack:
        consumers = [stack.enter_context(start_consumer(node, work_takes)) for _ in range(3)]
        deadline = time.monotonic() + seconds
        for fault in itertools.cycle(ROUND):
            if time.monotonic() > deadline and all(faults.values()):
                break
            orders = [ids(f"P{next(numbers)}", 1_000) for _ in range(2)]
            producers = [
                stack.enter_context(start_producer(node, patient, orders=each)) for each in orders
            ]
            time.sleep(random.uniform(0.2, 1.5))
            faults[fault] += 1
            if fault == CONSUMER:
                victim = consumers.pop(random.randrange(3))
                victim.kill()
                worked.update(victim.worked)
                consumers.append(stack.enter_context(start_consumer(node, work_takes)))
            else:
                (node.kill if fault == KILLED else node.stop)()
                node.start()
            for producer in producers:
                assert producer.wait(2 * LIMIT) == 0
                stored.update(producer.stored)
        channel = stack.enter_context(node.connect()).channel()
        wait_until(lambda: ready_count(channel) == 0, "an empty queue", 10 * LIMIT)
        for consumer in consumers:
            consumer.stop()
            worked.update(consumer.worked)
        counts = count(stored, worked, drain(channel, "orders"), drain(channel, "orders.dead"))
    return {**faults, **counts}


def main() -> int:
    """Return 1 if an order was lost or dead-lettered."""
    seconds = float(sys.argv[1]) if sys.argv[1:] else 120
    folder = Path(tempfile.mkdtemp(prefix="orders-soak-"))
    with running_node(Node(folder)) as node:
        print(f"{seconds:g} s on {versions(node)}\n\n| what | number |\n|---|---|", flush=True)
        counts = soak(node, seconds)
    for what, number in counts.items():
        print(f"| {what} | {number:,} |")
    bad = counts["lost"] + counts["in orders.dead"] > 0
    if bad:
        print(f"RabbitMQ's data and logs are kept in {folder}")
    else:
        shutil.rmtree(folder)
    return int(bad)


if __name__ == "__main__":
    run(main)
