"""The two scripts beside bare loops of pika: each a process of its own, on the same queues.

benchmark.py [--check]. The loops are started as benchmark.py LOOP, with the orders at standard
input. They log the first and the last order alone, as log lines would hide a part of a difference.
"""

import json
import logging
import os
import sys
from collections.abc import Callable
from functools import partial

import pika
from pika.adapters.blocking_connection import BlockingChannel as Channel
from pika.spec import Basic, BasicProperties

from rig.changes import orders_are, work_is_nothing
from rig.node import Node, wait_until
from rig.orders import QUEUES, order_json, put
from rig.scripts import Program, start_consumer, start_producer
from rig.tools import own_node, progress, run, versions

SIZES = {"Stored": 5_000, "Processed": 3_000}  # orders
ROUNDS = 5
LEAST = {"Stored": 0.75, "Processed": 0.55}  # of the loop's rate; ours writes all its log lines


def publishing_loop(channel: Channel, bodies: list[bytes]) -> None:
    """Publish, and wait for each confirmation."""
    channel.confirm_delivery()
    for body in bodies:
        channel.basic_publish("", "orders", body, pika.BasicProperties(delivery_mode=2))
        if body in (bodies[0], bodies[-1]):
            logging.warning(f"Stored {json.loads(body)['order_id']!r}")


def processing_loop(channel: Channel, bodies: list[bytes]) -> None:
    """Drain the queue, as in part two of RabbitMQ's tutorial."""

    def on_message(_: Channel, method: Basic.Deliver, __: BasicProperties, body: bytes) -> None:
        order = json.loads(body)
        channel.basic_ack(method.delivery_tag)
        if body in (bodies[0], bodies[-1]):
            logging.warning(f"Processed {order['order_id']!r}")

    channel.basic_qos(prefetch_count=1)
    channel.basic_consume("orders", on_message)
    channel.start_consuming()


LOOPS = {"Stored": publishing_loop, "Processed": processing_loop}


def start_ours(event: str, node: Node, order_ids: list[str]) -> Program:
    """Let producer.py publish the orders, or consumer.py drain the queue that has them."""
    if event == "Stored":
        return start_producer(node, partial(orders_are, order_ids=order_ids))
    return start_consumer(node, work_is_nothing)


def start_loop(event: str, node: Node, order_ids: list[str]) -> Program:
    """Let a loop do the same."""
    program = Program(__file__, event, environment={"AMQP_URL": node.url()})
    program.process.stdin.write(b"\n".join(map(order_json, order_ids)))
    program.close_input()
    return program


def orders_per_second(
    start: Callable[[str, Node, list[str]], Program], event: str, node: Node, size: int
) -> float:
    """Return the rate, from the first order to the last one by the log's clock."""
    order_ids = [f"ORD-{number}" for number in range(size)]
    with node.connect() as connection:
        channel = connection.channel()
        for queue in QUEUES:
            channel.queue_delete(queue)
        put(channel, *map(order_json, order_ids) if event == "Processed" else [])
    with start(event, node, order_ids) as program:
        last = f"{event} '{order_ids[-1]}'"
        wait_until(lambda: program.ended() or last in "".join(program.lines[-9:]), last, 900)
    moments = [moment for _, moment in program.seen(f"({event}) ")]
    assert len(moments) in (2, size), program
    return size / (moments[-1] - moments[0])


def main() -> int:
    """Measure both in turn, so that a slow minute hits both; print Markdown."""
    short = False
    with own_node("benchmark") as node:
        print(f"{versions(node)}. The best of {ROUNDS} rounds in turn.\n")
        print("| orders | ours, orders/s | bare loop, orders/s | ours / loop |\n|---|---|---|---|")
        for event, size in SIZES.items():
            ours = loop = 0.0
            for number in range(1, ROUNDS + 1):
                progress(f"{event}, round {number}")
                ours = max(ours, orders_per_second(start_ours, event, node, size))
                loop = max(loop, orders_per_second(start_loop, event, node, size))
            row = (f"{event}, {size:,}", f"{ours:,.0f}", f"{loop:,.0f}", f"{ours / loop:.2f}")
            print(f"| {' | '.join(row)} |", flush=True)
            short = short or ours / loop < LEAST[event]
    return int(short and "--check" in sys.argv)


if __name__ == "__main__":
    if sys.argv[-1] in LOOPS:
        logging.basicConfig(format="%(asctime)s %(message)s")
        with pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])) as connection:
            orders = sys.stdin.buffer.read().splitlines()
            LOOPS[sys.argv[-1]](connection.channel(), orders)
    else:
        run(main)
