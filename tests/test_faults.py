"""RabbitMQ stops or dies: no order is lost."""

from signal import SIGKILL, SIGTERM

import pytest
from pika.exceptions import AMQPError

from rig.network import Network
from rig.node import connect, running_node
from rig.orders import ids, new_order, order_json, put, wait_for_ready
from rig.processes import WORKER, Program

# The cause, not that a connection that is closed cannot be closed.
TOLD = "^WARNING Trying again: (?!ConnectionWrongState)"
# RabbitMQ that stops may cancel the consumer first.
STOPS = f"{TOLD}|^ERROR RabbitMQ has cancelled"


@pytest.mark.parametrize("end, told", [(SIGKILL, TOLD), (SIGTERM, STOPS)], ids=["dies", "stops"])
def test_rabbitmq_that_ends_loses_no_order(end, told, rabbitmq, publish, caplog):
    """One order is worked on then, 20 wait, and the 50th of 100 is on its way."""
    waiting, sent = ids("WAITS", 20), ids("SENT", 100)
    orders = [new_order(order_id) for order_id in sent]
    with running_node() as node:
        with connect(node.url) as connection:
            current = order_json("CURRENT", waits=True)
            put(connection.channel(), current, *map(order_json, waiting))
        node.end(SIGTERM)  # before 4.3, SIGKILL can lose a queue that is not yet two seconds old
        node.start()
        with (
            Network(node.url, b"SENT-00050", lambda _: node.end(end)) as network,
            Program(WORKER, network.url, may_say=told) as consumer,
        ):
            consumer.wait_for("Works on 'CURRENT'")
            with pytest.raises(AMQPError):
                publish(network.url, orders)
            assert caplog.text.count("RabbitMQ confirmed") == 49
            consumer.wait_until(lambda: not node.runs(), "the node's end")
            consumer.let_work_end()
            node.start()
            publish(network.url, orders[49:])
            consumer.wait_for("Processed 'SENT-00100'")
        assert consumer.count(told), "it is not told why"
        assert sorted(consumer.orders("Worked on")) == ["CURRENT", "CURRENT", *sent, *waiting]
        with connect(node.url) as connection:
            wait_for_ready(connection.channel(), 0)
