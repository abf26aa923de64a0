"""RabbitMQ stops or dies: no order is lost."""

from signal import SIGKILL, SIGTERM

import pytest

from rig.network import Network
from rig.node import connect
from rig.orders import ids, order_json, put
from rig.processes import PRODUCER_OF_MANY, WORKER, Program, run_producer
from rig.waiting import LIMIT, wait_until


@pytest.mark.parametrize("end", [SIGTERM, SIGKILL])
def test_rabbitmq_that_ends_loses_no_order(own_node, end):
    """One order is worked on then, 20 wait, and the 50th of 100 is on its way."""
    url, waiting, sent = own_node.url(), ids("WAITS", 20), ids("SENT", 100)
    with connect(url) as connection:
        put(connection.channel(), order_json("CURRENT", waits=True), *map(order_json, waiting))
    if end == SIGKILL:  # before 4.3, this can lose a queue that is not yet two seconds old
        own_node.end(SIGTERM)
        own_node.start()
    with (
        Network(url, sent={b"SENT-00050": lambda: own_node.end(end)}) as network,
        Program(WORKER, url, may_say="^WARNING Trying again: ") as consumer,
    ):
        consumer.wait_for("Received 'CURRENT'")
        many = [PRODUCER_OF_MANY, network.url, "SENT"]
        with Program(*many, 1, 100, may_say="^ERROR Failed: ") as producer:
            assert producer.wait(3 * LIMIT) == 1
        wait_until(lambda: own_node.process.poll() is not None, "the node's end", 3 * LIMIT)
        consumer.let_work_end()
        own_node.start()
        rest = run_producer(*many, 50, 100)
        consumer.wait_for("Processed 'SENT-00100'")
    assert producer.orders("Stored") + rest.orders("Stored") == sent
    for program in [producer, consumer]:
        assert program.count("WrongState") == 0, "it tells the cause"
    assert consumer.orders("Received") == ["CURRENT", "CURRENT", *waiting, *sent]
