"""A cluster of three nodes behind one address, of which any may fail."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rig.broker import Broker, let_new_queues_settle, wait_until
from rig.cluster import Cluster
from rig.network import PUBLISH
from rig.orders import drain, names, put, write_orders
from rig.scripts import PATIENT, PRODUCER, Script, changed, stored, telling_consumer

pytestmark = pytest.mark.xdist_group("cluster")  # its tests share the three nodes


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
        channel = connection.channel()
        return {**drain(channel), **drain(channel, "orders.dead")}


def publish(url: str, path: Path, ids: list[str]) -> None:
    with changed(PRODUCER, PATIENT, write_orders(path, ids), url=url) as script:
        assert script.wait(120) == 0, script


def all_done(workers: list[Script], orders: list[str]) -> None:
    """Wait until the workers have done each of the orders."""
    wanted = set(orders)
    wait_until(
        lambda: wanted == {order for w in workers for order in w.texts("end (.*)")},
        "each order done",
        120,
    )


def test_queue_leads_on_when_its_leader_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    leader = cluster.leader()
    others = [node for node in cluster.nodes if node is not leader]
    orders = names("A", 400)
    publish(leader.url(), tmp_path / "first", orders[:300])
    with ExitStack() as stack:
        ways = [stack.enter_context(cluster.balancer(node)) for node in (leader, *cluster.nodes)]
        ways[0].hold_up_at(PUBLISH)
        path = write_orders(tmp_path / "second", orders[300:])
        sender = stack.enter_context(changed(PRODUCER, PATIENT, path, url=ways[0].url()))
        assert ways[0].held.wait(60)
        workers = [stack.enter_context(telling_consumer(way.url(), 0.05)) for way in ways[1:]]
        for worker in workers:
            worker.wait_for("Processed")
        leader.kill()
        done = sum(len(worker.texts("(end)")) for worker in workers)
        assert done < 300, "it must be in mid-run"
        assert sender.wait() == 0, sender
        all_done(workers, orders)
        for worker in workers:
            worker.stop()
    assert stored(sender) == orders[300:]
    assert len(sender.seen("(Error|Stream)")) >= 1 and left(others[0]) == {}


def test_nothing_is_called_stored_that_has_no_majority(cluster: Cluster, tmp_path: Path) -> None:
    survivor, *others = cluster.nodes
    orders = names("A", 200)
    publish(survivor.url(), tmp_path / "first", orders[:100])
    with cluster.balancer() as network:
        network.hold_up_at(PUBLISH)
        path = write_orders(tmp_path / "second", orders[100:])
        with changed(PRODUCER, PATIENT, path, url=network.url()) as sender:
            assert network.held.wait(60)
            for node in others:
                node.kill()
            network.release()
            time.sleep(3)  # in which to be wrong
            assert not sender.ended() and stored(sender) == [], sender
            cluster.start()
            assert sender.wait(120) == 0, sender
    assert stored(sender) == orders[100:]
    count = left(survivor)
    assert set(count) == set(orders)
    assert sum(count.values()) <= 210, "at most the order in doubt of each try"


def test_rolling_restart_under_load_loses_nothing(cluster: Cluster, tmp_path: Path) -> None:
    orders = names("A", 3_000)
    with ExitStack() as stack:
        ways = [stack.enter_context(cluster.balancer(node)) for node in cluster.nodes]
        workers = [stack.enter_context(telling_consumer(way.url())) for way in ways]
        load = stack.enter_context(cluster.balancer())
        load.pause = 0.02  # or the sender is done too early
        path = write_orders(tmp_path / "orders", orders)
        sender = stack.enter_context(changed(PRODUCER, PATIENT, path, url=load.url()))
        for node in cluster.nodes:
            so_far = len(stored(sender))
            wait_until(lambda: len(stored(sender)) > so_far + 20, "a load")  # noqa: B023
            node.stop()
            node.start()
            wait_until(node.is_alive, "a node that lets clients in")
        assert not sender.ended()
        load.pause = 0
        assert sender.wait(120) == 0, sender
        all_done(workers, orders)
        for worker in workers:
            worker.stop()
    assert stored(sender) == orders and left(cluster.nodes[0]) == {}
    # Each was on a node that went down.
    assert all(len(worker.seen("(Waiting for orders)")) > 1 for worker in workers)
