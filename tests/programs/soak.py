"""Publish and process at full speed, kill consumers and RabbitMQ, count: tests/run soak SECONDS"""

import itertools
import random
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM

from rig.node import Node, connect, running_node
from rig.orders import counts, take_ids
from rig.processes import PRODUCER_OF_MANY, WORKER, Program
from rig.waiting import LIMIT, wait_until

CONSUMER, KILLED, STOPPED = "consumers killed", "RabbitMQ killed", "RabbitMQ stopped"
# Consumers first: RabbitMQ before 4.3, killed in a queue's first two seconds, can lose the queue.
FAULTS = [*[CONSUMER] * 5, KILLED, CONSUMER, STOPPED]


def soak(node: Node, seconds: float) -> dict[str, int]:
    """Run two producers and three consumers, and each fault at least once; return the counts."""
    faults, numbers = Counter[str](), itertools.count(1)
    stored, worked_on = set[str](), Counter[str]()
    deadline = time.monotonic() + seconds
    with ExitStack() as stack:

        def start(script: Path, *arguments: object) -> Program:
            program = Program(script, node.url(), *arguments, may_say=".")  # all that it likes
            stack.callback(program.process.kill)
            return program

        def finish(producer: Program) -> list[str]:
            producer.wait(6 * LIMIT)
            return producer.orders("Stored")

        consumers = [start(WORKER) for _ in range(3)]
        for fault in itertools.cycle(FAULTS):
            if time.monotonic() > deadline and faults[STOPPED]:
                break
            names = [f"P{next(numbers)}" for _ in range(2)]
            producers = [start(PRODUCER_OF_MANY, name, 1, 1_000) for name in names]
            time.sleep(random.uniform(0.2, 1.5))
            faults[fault] += 1
            if fault == CONSUMER:
                victim = consumers.pop(random.randrange(3))
                victim.kill()
                worked_on.update(victim.orders("Worked on"))
                consumers.append(start(WORKER))
            else:
                node.end(SIGKILL if fault == KILLED else SIGTERM)
                node.start()
            for name, producer in zip(names, producers, strict=True):
                confirmed = finish(producer)
                while len(confirmed) < 1_000:
                    producer = start(PRODUCER_OF_MANY, name, len(confirmed) + 1, 1_000)
                    confirmed += finish(producer)
                stored.update(confirmed)
        channel = stack.enter_context(connect(node.url())).channel()
        wait_until(lambda: counts(channel)[0] == 0, "an empty queue", 30 * LIMIT)
        for consumer in consumers:
            consumer.kill(SIGINT)
            worked_on.update(consumer.orders("Worked on"))
        wait_until(lambda: counts(channel)[1] == 0, "RabbitMQ to see them dead")
        lost = len(stored - {*worked_on, *take_ids(channel)})
    twice = sum(number > 1 for number in worked_on.values())
    return {**faults, "orders stored": len(stored), "processed twice": twice, "lost": lost}


def main() -> int:
    """Print what happened, as a table; return 1 if an order was lost."""
    seconds = float(sys.argv[1]) if sys.argv[1:] else 120
    with running_node() as node:
        print(
            f"RabbitMQ {node.command('rabbitmqctl', 'version').strip()}, {seconds:g} s", flush=True
        )
        results = soak(node, seconds)
    print(*(f"| {what} | {number:,} |" for what, number in results.items()), sep="\n")
    return int(results["lost"] > 0)


if __name__ == "__main__":
    sys.exit(main())
