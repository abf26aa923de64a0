"""A cluster of three nodes behind one address, of which any may fail."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from rig.changes import orders_are, patient, work_takes
from rig.network import PUBLISH, Network
from rig.node import LIMIT, Node, let_new_queues_settle, wait_until
from rig.orders import drain, ids, put, put_orders
from rig.scripts import Program, start_consumer, start_producer

pytestmark = pytest.mark.xdist_group("cluster")  # its tests share the three nodes


class Cluster:
    """Three RabbitMQ nodes on this machine, all of their files in `folder`."""

    def __init__(self, folder: Path) -> None:
        folders = [folder / "node1", folder / "node2", folder / "node3"]
        self.nodes = [Node(each) for each in folders]
        config = "cluster_formation.peer_discovery_backend = classic_config\n"
        for number, node in enumerate(self.nodes, 1):
            config += f"cluster_formation.classic_config.nodes.{number} = {node.node_name}\n"
        for each in folders:
            (each / "rabbitmq.conf").write_text(config)
            cookie = each / ".erlang.cookie"
            cookie.write_text("ORDERS")
            cookie.chmod(0o400)

    def balancer(self, *first: Node) -> Network:
        """Return what leads to the first node that answers, these ones before the others."""
        others = [node for node in self.nodes if node not in first]
        return Network(*(node.port for node in [*first, *others]))

    def start(self) -> None:
        """Start the nodes that do not run, at once: the first start waits for all."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Node.start, [node for node in self.nodes if not node.is_running()]))

    def leader(self) -> Node:
        """Return the node that leads the queue (costs a second or two)."""
        table = self.nodes[0].rabbitmqctl("-s", "list_queues", "name", "leader")
        rows = dict(line.split() for line in table.splitlines())
        return next(node for node in self.nodes if node.node_name == rows["orders"])

    def kill(self) -> None:
        """Kill what runs."""
        for node in self.nodes:
            node.kill()


@pytest.fixture(scope="module")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        with cluster.nodes[0].connect() as connection:
            put(connection.channel())
        let_new_queues_settle()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture
def cluster(three_nodes: Cluster) -> Cluster:
    """The cluster, all nodes up, with empty queues."""
    three_nodes.start()
    with three_nodes.nodes[0].connect() as connection:
        channel = connection.channel()
        channel.queue_purge("orders")
        channel.queue_purge("orders.dead")
    return three_nodes


def left(node: Node) -> dict[str, int]:
    """Take what is left in both queues."""
    with node.connect() as connection:
        return drain(connection.channel())


def let_them_finish(consumers: list[Program], orders: list[str]) -> None:
    """Wait until the consumers have done each of the orders, and stop them."""

    def done() -> set[str]:
        return {order_id for consumer in consumers for order_id in consumer.worked}

    wait_until(lambda: done() == set(orders), "each order done", 2 * LIMIT)
    for consumer in consumers:
        consumer.stop()


def test_killed_leader_of_the_queue_loses_nothing(cluster: Cluster) -> None:
    leader = cluster.leader()
    waiting, sent = ids("WAITS", 300), ids("SENT", 100)
    with leader.connect() as connection:
        put_orders(connection.channel(), *waiting)
    slow = partial(work_takes, seconds=0.1)
    with ExitStack() as stack:
        way, *ways = (
            stack.enter_context(cluster.balancer(node)) for node in (leader, *cluster.nodes)
        )
        way.hold_up_at(PUBLISH)
        changes = (patient, partial(orders_are, order_ids=sent))
        producer = stack.enter_context(start_producer(way, *changes))
        assert way.held.wait(LIMIT)
        consumers = [stack.enter_context(start_consumer(each, slow)) for each in ways]
        for consumer in consumers:
            consumer.wait_for("Processed")
        leader.kill()
        way.release()
        assert sum(len(consumer.processed) for consumer in consumers) < 300, "amid their work"
        assert producer.wait() == 0
        let_them_finish(consumers, waiting + sent)
    assert producer.stored == sent
    assert producer.count("ERROR") >= 1
    worked = [order_id for consumer in consumers for order_id in consumer.worked]
    assert len(worked) <= 400 + 3 + producer.count("ERROR"), "those in hand, and in doubt"
    assert left(next(node for node in cluster.nodes if node is not leader)) == {}


def test_nothing_is_called_stored_that_has_no_majority(cluster: Cluster) -> None:
    survivor = cluster.leader()
    others = [node for node in cluster.nodes if node is not survivor]
    waiting, sent = ids("WAITS", 100), ids("SENT", 100)
    with survivor.connect() as connection:
        put_orders(connection.channel(), *waiting)
    with cluster.balancer(survivor) as way:
        way.hold_up_at(PUBLISH)
        changes = (patient, partial(orders_are, order_ids=sent))
        with start_producer(way, *changes) as producer:
            assert way.held.wait(LIMIT)
            for node in others:
                node.kill()
            way.release()
            time.sleep(3)  # in which to be wrong
            assert not producer.ended() and producer.stored == [], producer
            cluster.start()
            assert producer.wait(2 * LIMIT) == 0
    assert producer.stored == sent
    count = left(survivor)
    assert set(count) == {*waiting, *sent}
    assert sum(count.values()) <= 200 + producer.count("ERROR"), "the order in doubt of each try"
