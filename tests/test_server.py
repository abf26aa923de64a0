"""A server as README sets it up: a vhost of quorum queues with a policy, on three nodes."""

import re
import shlex
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from signal import SIGKILL

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from rig.changes import patient, pause, work_crashes, work_fails, work_takes
from rig.network import PUBLISH, Network
from rig.node import LIMIT, Node, wait_until
from rig.orders import QUEUES, drain, ids, put_orders, ready_count
from rig.scripts import ROOT, run_consumer, run_producer, start_consumer, start_producer

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line) for line in re.findall(r"(?m)^rabbitmqctl (.*)$", README)]

pytestmark = pytest.mark.xdist_group("server")  # its tests share the three nodes


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

    def start(self) -> None:
        """Start the nodes that do not run, at once: the first start waits for all."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Node.start, [node for node in self.nodes if not node.is_running()]))

    def way_to(self, first: Node) -> Network:
        """Return what leads to this node, or to another one that answers, as a balancer does."""
        others = [node for node in self.nodes if node is not first]
        return Network(*(node.port for node in [first, *others]))

    def leader(self) -> Node:
        """Return the node that leads the queue (costs a second or two)."""
        table = self.nodes[0].rabbitmqctl("-s", "list_queues", "-p", "shop", "name", "leader")
        rows = dict(line.split() for line in table.splitlines())
        return next(node for node in self.nodes if node.node_name == rows["orders"])


@pytest.fixture(scope="module")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        for command in COMMANDS:
            cluster.nodes[0].rabbitmqctl(*command)
        cluster.nodes[0].rabbitmqctl("set_permissions", "-p", "shop", "guest", ".*", ".*", ".*")
        yield cluster
    finally:
        for node in cluster.nodes:
            node.kill()


@pytest.fixture
def cluster(three_nodes: Cluster) -> Cluster:
    """The cluster, all nodes up, without any of our queues."""
    three_nodes.start()
    with three_nodes.nodes[0].connect("shop") as connection:
        for queue in QUEUES:
            connection.channel().queue_delete(queue)
    return three_nodes


def test_readmes_rights_suffice_for_both_scripts_and_for_no_more(cluster: Cluster) -> None:
    url = cluster.nodes[0].url("orders:PASSWORD", "shop")
    run_producer(url)
    failing = partial(work_fails, on="ORD-001", times=1)  # so that the consumer stores a copy
    run_consumer(url, partial(pause, 0), failing, until="Processed 'ORD-001'")
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        with pytest.raises(ChannelClosedByBroker, match="ACCESS_REFUSED"):
            connection.channel().queue_declare("others")
        with pytest.raises(ChannelClosedByBroker, match="ACCESS_REFUSED"):
            connection.channel().basic_get("orders.dead")


def test_order_that_kills_its_consumers_ends_in_orders_dead(cluster: Cluster) -> None:
    """After 20 deliveries that came back as their connection ended, and one to consumer.py."""
    url = cluster.nodes[0].url(vhost="shop")
    with cluster.nodes[0].connect("shop") as connection:
        channel = connection.channel()
        put_orders(channel, "KILLS")
        for _ in range(20):
            with cluster.nodes[0].connect("shop") as victim:
                wait_until(lambda: victim.channel().basic_get("orders")[0], "a delivery")
        put_orders(channel, "B")
        with start_consumer(url, partial(work_crashes, on="KILLS")) as consumer:
            assert consumer.wait() == -SIGKILL
        assert consumer.redelivered == ["KILLS"]
        wait_until(lambda: ready_count(channel, "orders.dead") == 1, "a dead letter")
        run_consumer(url, partial(work_crashes, on="KILLS"), until="Processed 'B'")
        assert drain(channel, "orders.dead") == {"KILLS": 1}


def test_killed_leader_of_the_queue_loses_nothing(cluster: Cluster) -> None:
    waiting, sent = ids("WAITS", 300), ids("SENT", 100)
    with cluster.nodes[0].connect("shop") as connection:
        put_orders(connection.channel(), *waiting)
    time.sleep(1.5)  # a node killed in a quorum queue's first second may lose it
    leader = cluster.leader()
    with ExitStack() as stack:
        way, *ways = (
            stack.enter_context(cluster.way_to(node)) for node in [leader, *cluster.nodes]
        )
        way.hold_up_at(PUBLISH)
        producer = stack.enter_context(start_producer(way.url(vhost="shop"), patient, orders=sent))
        assert way.held.wait(LIMIT)
        slow = partial(work_takes, seconds=0.1)
        urls = [each.url(vhost="shop") for each in ways]
        consumers = [stack.enter_context(start_consumer(url, slow)) for url in urls]
        for consumer in consumers:
            consumer.wait_for("Processed")
        leader.kill()
        way.release()
        assert producer.wait(2 * LIMIT) == 0

        def worked() -> set[str]:
            return {order_id for consumer in consumers for order_id in consumer.worked}

        wait_until(lambda: worked() == {*waiting, *sent}, "each order done", 2 * LIMIT)
        for consumer in consumers:
            consumer.stop()
    assert producer.stored == sent
    assert producer.count("ERROR") >= 1, "it was amid its work"
