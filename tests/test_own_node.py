"""RabbitMQ itself is stopped or killed: each test has a node of its own."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rig.changes import patient, work_takes, work_waits
from rig.network import Network
from rig.node import LIMIT, Node, running_node
from rig.orders import drain, ids, put_orders
from rig.scripts import start_consumer, start_producer


@pytest.mark.parametrize("end", [Node.stop, Node.kill], ids=["stopped", "killed"])
def test_rabbitmq_that_goes_down_loses_nothing(tmp_path: Path, end: Callable[[Node], None]) -> None:
    """One order is just done, one is being worked on, 100 wait, and more are being sent."""
    sent, waiting = ids("SENT", 500), ids("WAITED", 100)
    with running_node(Node(tmp_path)) as node:
        with node.connect() as connection:
            put_orders(connection.channel(), "DONE")
            with start_consumer(node, work_takes) as first:
                first.wait_for("Processed 'DONE'")
                first.stop()
            put_orders(connection.channel(), "CURRENT", *waiting)
        # RabbitMQ 4 writes an acknowledgement down some time after it has stored other orders.
        time.sleep(4)
        with Network(node.port) as network:
            network.pause = 0.02  # or the producer is done too early
            with (
                start_producer(network, patient, orders=sent) as producer,
                start_consumer(node, work_waits) as consumer,
            ):
                producer.wait_for("Stored", 50)
                consumer.wait_for("begin CURRENT")
                end(node)
                consumer.close_input()
                network.pause = 0
                node.start()
                assert producer.wait(2 * LIMIT) == 0
                consumer.wait_for(r"Received \(redelivered\) .*CURRENT")
                consumer.wait_for("Processed 'CURRENT'")
                consumer.stop()
        with node.connect() as connection:
            left = drain(connection.channel())
    assert producer.stored == sent
    assert producer.count("ERROR") >= 1, "it was amid its work"
    everything = set(left) | set(consumer.processed)
    assert everything == {"CURRENT", *waiting, *sent}, "none is lost, and DONE is not back"
    assert sum(left.values()) <= len(left) + 1, "only the order in doubt is there twice"
