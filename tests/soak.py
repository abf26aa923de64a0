"""Publish and work off at full speed, kill consumers and RabbitMQ at random; then count.

soak.py [SECONDS]. Exits with 1 if an order was lost or dead-lettered, and keeps the node's folder.
"""

import contextlib
import itertools
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from rig.changes import orders_are, patient, work_takes
from rig.node import LIMIT, Node, let_new_queues_settle, running_node, wait_until
from rig.orders import drain, ids, ready_count
from rig.scripts import Program, start_consumer, start_producer
from rig.tools import run

PRODUCERS, CONSUMERS, BATCH = 2, 3, 1_000  # orders of a producer
ROUND = ["rabbitmq killed", "consumer killed", "rabbitmq stopped", *["consumer killed"] * 5]


class Soak:
    """One run: who publishes to the node, and who works from it.

    Of the output of scripts that have ended only `stored` and `worked` are kept: it is long.
    """

    def __init__(self, node: Node) -> None:
        self.node, self.started_producers = node, 0
        self.producers: list[Program] = []
        self.consumers: list[Program] = []
        self.stored, self.worked = set[str](), Counter[str]()
        self.lost: set[str] = set()

    def publish(self, count: int) -> None:
        """Start a producer, with orders of its own."""
        self.started_producers += 1
        orders = partial(orders_are, order_ids=ids(f"P{self.started_producers}", count))
        self.producers.append(start_producer(self.node, orders, patient))

    def collect_stored(self, wait: bool = True) -> None:
        """Note what producers have stored that have ended, or wait until all have."""
        for producer in list(self.producers):
            if wait or producer.ended():
                self.producers.remove(producer)
                with producer:
                    assert producer.wait(2 * LIMIT) == 0
                self.stored.update(producer.stored)

    def publish_for(self, seconds: float) -> None:
        """Let producers run for so long, one after the other."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.collect_stored(wait=False)
            for _ in range(PRODUCERS - len(self.producers)):
                self.publish(BATCH)
            time.sleep(0.05)

    def start_consumer(self) -> None:
        """Start a consumer."""
        self.consumers.append(start_consumer(self.node, work_takes))

    def kill_consumer(self, number: int) -> None:
        """Kill a consumer, and start another one."""
        with self.consumers.pop(number) as victim:
            pass  # it is killed here
        self.worked.update(victim.worked)
        self.start_consumer()

    def end(self) -> dict[str, int]:
        """Let the scripts finish all there is, and count."""
        self.collect_stored()
        with self.node.connect() as connection:
            channel = connection.channel()
            wait_until(lambda: ready_count(channel) == 0, "an empty queue", 10 * LIMIT)
            for consumer in self.consumers:
                consumer.wait_for("Waiting for orders")
                consumer.stop()
                self.worked.update(consumer.worked)
            left = drain(channel, "orders")
            dead = drain(channel, "orders.dead")
        self.lost = self.stored - self.worked.keys() - left.keys() - dead.keys()
        return {
            "published and confirmed": len(self.stored),
            "processed more than once": sum(number > 1 for number in self.worked.values()),
            "dead-lettered": len(dead),
            "lost": len(self.lost),
        }

    def close(self) -> None:
        """End everything at once."""
        with contextlib.ExitStack() as stack:
            for program in self.producers + self.consumers:
                stack.enter_context(program)  # which kills it


def soak(folder: Path, seconds: float) -> dict[str, int]:
    """Run it, at least until each fault has come once; return the counts."""
    faults = dict.fromkeys(ROUND, 0)
    with running_node(Node(folder)) as node, contextlib.closing(Soak(node)) as this:
        print(f"{seconds:g} s, RabbitMQ on port {node.port}", flush=True)
        for _ in range(CONSUMERS):
            this.start_consumer()
        this.consumers[0].wait_for("Waiting for orders")  # it has declared the queues
        let_new_queues_settle()
        deadline = time.monotonic() + seconds
        for fault in itertools.cycle(ROUND):
            this.publish_for(random.uniform(0.2, 1.5))
            if time.monotonic() > deadline and all(faults.values()):
                break
            faults[fault] += 1
            if fault == "consumer killed":
                this.kill_consumer(random.randrange(CONSUMERS))
            elif fault == "rabbitmq killed":
                node.kill()
                node.start()
            else:
                node.stop()
                node.start()
        counts = this.end()
        for what, number in {**faults, **counts}.items():
            print(f"{what + ':':26}{number:8}")
        if this.lost:
            print("lost:", *sorted(this.lost))
    return counts


def main() -> int:
    """Return 1 if an order was lost or dead-lettered."""
    seed = random.randrange(10**6)
    random.seed(seed)
    print(f"random.seed({seed})")
    seconds = float(sys.argv[1]) if sys.argv[1:] else 120
    folder = Path(tempfile.mkdtemp(prefix="orders-soak-"))
    good = False
    try:
        counts = soak(folder, seconds)
        good = counts["lost"] + counts["dead-lettered"] == 0
    except KeyboardInterrupt:
        good = True
        raise
    finally:
        if good:
            shutil.rmtree(folder)
        else:
            print(f"RabbitMQ's data and logs are kept in {folder}")
    return int(not good)


if __name__ == "__main__":
    run(main)
