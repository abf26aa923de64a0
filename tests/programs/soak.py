"""Publish and process at full speed, kill consumers and RabbitMQ, count: tests/run soak SECONDS

It exits with 1 if an order was lost.
"""

import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from rig.node import LIMIT, Node, clean_up_at_signals, running_node, wait_until
from rig.orders import ready_count, take_orders
from rig.processes import Program, start_consumer, start_producer

CONSUMER, KILLED, STOPPED = "consumers killed", "RabbitMQ killed", "RabbitMQ stopped"
# Consumers first: RabbitMQ before 4.3, killed in a queue's first two seconds, can lose the queue.
FAULTS = [*[CONSUMER] * 5, KILLED, CONSUMER, STOPPED]


def consume(node: Node) -> Program:
    """Start a consumer whose work is empty."""
    return start_consumer(node, errors="Cannot", work="nothing")


def publish(node: Node, prefix: str) -> Program:
    """Start a producer of 1,000 orders, patient enough for a RabbitMQ that boots."""
    return start_producer(node, errors="Cannot", prefix=prefix, count=1_000, attempts=1_000)


def soak(node: Node, seconds: float) -> dict[str, int]:
    """Run two producers and three consumers, at least until each fault has come once."""
    faults = dict.fromkeys((CONSUMER, KILLED, STOPPED), 0)
    stored, processed, numbers = set[str](), Counter[str](), itertools.count(1)
    deadline = time.monotonic() + seconds
    with ExitStack() as stack:
        consumers = [stack.enter_context(consume(node)) for _ in range(3)]
        for fault in itertools.cycle(FAULTS):
            if time.monotonic() > deadline and all(faults.values()):
                break
            producers = [stack.enter_context(publish(node, f"P{next(numbers)}")) for _ in range(2)]
            time.sleep(random.uniform(0.2, 1.5))
            faults[fault] += 1
            if fault == CONSUMER:
                victim = consumers.pop(random.randrange(3))
                victim.kill()
                processed.update(victim.processed)
                consumers.append(stack.enter_context(consume(node)))
            else:
                (node.kill if fault == KILLED else node.stop)()
                node.start()
            for producer in producers:
                assert producer.wait(6 * LIMIT) == 0
                stored.update(producer.stored)
        channel = stack.enter_context(node.connect()).channel()
        wait_until(lambda: ready_count(channel) == 0, "an empty queue", 30 * LIMIT)
        for consumer in consumers:
            consumer.stop()
            processed.update(consumer.processed)
        left = take_orders(channel)
    twice = sum(number > 1 for number in processed.values())
    lost = len(stored - processed.keys() - left.keys())
    return {**faults, "orders stored": len(stored), "processed twice": twice, "lost": lost}


def main() -> int:
    """Print what happened, as a table; return 1 if an order was lost."""
    seconds = float(sys.argv[1]) if sys.argv[1:] else 120
    with tempfile.TemporaryDirectory(prefix="orders-soak-") as folder:
        with running_node(Path(folder)) as node:
            print(f"RabbitMQ {node.rabbitmqctl('version').strip()}, {seconds:g} s", flush=True)
            counts = soak(node, seconds)
    for what, number in counts.items():
        print(f"| {what} | {number:,} |")
    return int(counts["lost"] > 0)


if __name__ == "__main__":
    clean_up_at_signals()
    sys.exit(main())
