"""Publish and process at full speed, kill consumers and RabbitMQ, count: tests/run soak SECONDS"""

import random
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from signal import SIGKILL, SIGTERM

import producer
from rig.node import Node, connect, running_node, wait_until
from rig.orders import counts, ids, new_order, take_ids
from rig.processes import WORKER, Program

# None: a consumer is killed; otherwise, RabbitMQ gets the signal. Consumers first: RabbitMQ before
# 4.3, killed in a queue's first two seconds, can lose the queue.
FAULTS = [None, None, None, None, None, SIGKILL, None, SIGTERM]


def soak(node: Node, seconds: float) -> int:
    """Run two producers, three consumers and all faults, again and again; return what is lost."""
    faults, confirmed, worked_on = 0, set[str](), Counter[str]()
    deadline = time.monotonic() + seconds
    with ExitStack() as stack:

        def start(script: Path, *arguments: str) -> Program:
            program = Program(script, node.url, *arguments, may_say=".")  # all that it likes
            stack.callback(program.process.kill)
            return program

        consumers = [start(WORKER) for _ in range(3)]
        while time.monotonic() < deadline:
            for fault in FAULTS:
                faults += 1
                producers = [start(Path(__file__), "produce", f"{name}{faults}") for name in "AB"]
                time.sleep(random.uniform(0.2, 1.5))
                if fault:
                    node.end(fault)
                    node.start()
                else:
                    consumers.append(start(WORKER))
                    consumers[-4].kill()
                for process in producers:
                    process.wait()
                    confirmed.update(process.orders("RabbitMQ confirmed"))
        channel = stack.enter_context(connect(node.url)).channel()
        consumers[-1].wait_until(lambda: counts(channel)[0] == 0, "an empty queue")
        for consumer in consumers[-3:]:
            consumer.kill()
        wait_until(lambda: counts(channel)[1] == 0, "RabbitMQ to see them dead")
        for consumer in consumers:
            worked_on.update(consumer.orders("Worked on"))
        lost = len(confirmed - {*worked_on, *take_ids(channel)})
    twice = sum(number > 1 for number in worked_on.values())
    print(f"{faults} times, consumers or RabbitMQ were killed or stopped.")
    print(f"{len(confirmed):,} orders were confirmed, {twice} processed twice, {lost} lost.")
    assert confirmed, "no order was confirmed"
    return lost


if sys.argv[2:]:  # a producer of the soak's
    producer.ORDERS = [new_order(order_id) for order_id in ids(sys.argv[2], 1_000)]
    producer.main()
else:
    with running_node() as node:
        print("RabbitMQ", node.rabbitmqctl("version").strip(), flush=True)
        sys.exit(soak(node, float(sys.argv[1]) if sys.argv[1:] else 120) > 0)
