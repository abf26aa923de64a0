"""A cluster of three nodes behind one address, of which any may fail."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from rig.broker import Broker, let_new_queues_settle, wait_until
from rig.network import PUBLISH, Network
from rig.orders import drain, line, names, put
from rig.scripts import PATIENT, Script, producer, telling_consumer

pytestmark = pytest.mark.xdist_group("cluster")  # its tests share the three nodes


class Cluster:
    """Three RabbitMQ nodes on this machine, all of their files in `folder`."""

    def __init__(self, folder: Path) -> None:
        folders = [folder / "node1", folder / "node2", folder / "node3"]
        self.nodes = [Broker(each) for each in folders]
        config = "cluster_formation.peer_discovery_backend = classic_config\n"
        for number, node in enumerate(self.nodes, 1):
            config += f"cluster_formation.classic_config.nodes.{number} = {node.node_name}\n"
        for each in folders:
            (each / "rabbitmq.conf").write_text(config)
            cookie = each / ".erlang.cookie"
            cookie.write_text("ORDERS")
            cookie.chmod(0o400)

    def balancer(self, *first: Broker) -> Network:
        """Return what leads to the first node that answers, these ones before the others."""
        others = [node for node in self.nodes if node not in first]
        return Network(*(node.port for node in [*first, *others]))

    def start(self) -> None:
        """Start the nodes that do not run, at once: the first start waits for all."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Broker.start, [node for node in self.nodes if not node.running()]))

    def leader(self) -> Broker:
        """Return the node that leads the queue (costs a second or two)."""
        table = self.nodes[0].rabbitctl_output("-s", "list_queues", "name", "leader")
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


def left(node: Broker) -> dict[str, int]:
    """Take what is left in both queues."""
    with node.connect() as connection:
        return drain(connection.channel())


def publish(node: Broker, orders: list[str]) -> None:
    with producer(node, lines=map(line, orders), change=PATIENT) as script:
        assert script.wait(120) == 0, script


def let_them_finish(workers: list[Script], orders: list[str]) -> None:
    """Wait until the workers have done each of the orders, and stop them."""

    def done() -> set[str]:
        return {order for worker in workers for order in worker.texts("end (.*)")}

    wait_until(lambda: done() == set(orders), "each order done", 120)
    for worker in workers:
        worker.stop()


def test_queue_leads_on_when_its_leader_is_killed(cluster: Cluster) -> None:
    leader = cluster.leader()
    orders = names("A", 400)
    publish(leader, orders[:300])
    with ExitStack() as stack:
        ways = [stack.enter_context(cluster.balancer(node)) for node in (leader, *cluster.nodes)]
        ways[0].hold_up_at(PUBLISH)
        load = map(line, orders[300:])
        sender = stack.enter_context(producer(ways[0], lines=load, change=PATIENT))
        assert ways[0].held.wait(60)
        workers = [stack.enter_context(telling_consumer(way, 0.05)) for way in ways[1:]]
        for worker in workers:
            worker.wait_for("Processed")
        leader.kill()
        ways[0].release()
        assert sum(len(worker.processed) for worker in workers) < 300, "it must be in mid-run"
        assert sender.wait() == 0, sender
        let_them_finish(workers, orders)
    assert sender.stored == orders[300:] and sender.seen("(Error|Stream)")
    assert left(next(node for node in cluster.nodes if node is not leader)) == {}


def test_nothing_is_called_stored_that_has_no_majority(cluster: Cluster) -> None:
    survivor, *others = cluster.nodes
    orders = names("A", 200)
    publish(survivor, orders[:100])
    with cluster.balancer() as network:
        network.hold_up_at(PUBLISH)
        with producer(network, lines=map(line, orders[100:]), change=PATIENT) as sender:
            assert network.held.wait(60)
            for node in others:
                node.kill()
            network.release()
            time.sleep(3)  # in which to be wrong
            assert not sender.ended() and sender.stored == [], sender
            cluster.start()
            assert sender.wait(120) == 0, sender
    assert sender.stored == orders[100:]
    count = left(survivor)
    assert set(count) == set(orders)
    assert sum(count.values()) <= 210, "at most the order in doubt of each try"


def test_rolling_restart_under_load_loses_nothing(cluster: Cluster) -> None:
    orders = names("A", 1_500)
    with ExitStack() as stack:
        ways = [stack.enter_context(cluster.balancer(node)) for node in cluster.nodes]
        workers = [stack.enter_context(telling_consumer(each)) for each in ways]
        way = stack.enter_context(cluster.balancer())
        way.pause = 0.04  # or the sender is done too early
        load = map(line, orders)
        sender = stack.enter_context(producer(way, lines=load, change=PATIENT))
        for node in cluster.nodes:
            sender.wait_for("Stored", len(sender.stored) + 10)
            node.stop()
            node.start()
        assert not sender.ended()
        way.pause = 0
        assert sender.wait(120) == 0, sender
        let_them_finish(workers, orders)
    assert sender.stored == orders and left(cluster.nodes[0]) == {}
    # Each was on a node that went down.
    assert all(len(worker.seen("(Waiting for orders)")) > 1 for worker in workers)
