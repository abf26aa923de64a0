"""A cluster of three nodes, of which AMQP_URL names all and any may fail."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from rig.broker import Broker, let_new_queues_settle, wait_until
from rig.cluster import Cluster
from rig.network import PUBLISH, Network
from rig.notes import Notes
from rig.orders import drain, names, write_orders
from rig.scripts import PRODUCER, Script, changed


@pytest.fixture(scope="module")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        with Script(PRODUCER, url=cluster.url()) as first:
            assert first.wait() == 0
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
    with Script(PRODUCER, write_orders(path, ids), url=url) as script:
        assert script.wait() == 0, script


def test_queue_leads_on_when_its_leader_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    leader = cluster.leader()
    others = [node for node in cluster.nodes if node is not leader]
    notes, orders = Notes(tmp_path / "notes"), names("A", 400)
    publish(cluster.url(leader), tmp_path / "first", orders[:300])
    with ExitStack() as stack:
        network = stack.enter_context(Network(leader.port))
        network.hold_up_at(PUBLISH)
        url = ",".join([network.url(), *(node.url() for node in others)])
        path = write_orders(tmp_path / "second", orders[300:])
        sender = stack.enter_context(changed("patient_producer", path, url=url))
        assert network.held.wait(60)
        workers = [stack.enter_context(notes.consumer(cluster.url(node), 0.05)) for node in [leader, *others]]
        for worker in workers:
            worker.wait_for("Processed")
        leader.kill()
        assert len(notes.count()) < 300, "it must be in mid-run"
        assert sender.wait() == 0, sender
        count = notes.wait_for(orders)
        for worker in workers:
            worker.stop()
    assert "trying again" in sender.out and "trying again" in workers[0].out
    assert len(count) == 400 and left(others[0]) == {}


def test_nothing_is_called_stored_that_has_no_majority(cluster: Cluster, tmp_path: Path) -> None:
    survivor, *others = cluster.nodes
    orders = names("A", 200)
    publish(cluster.url(), tmp_path / "first", orders[:100])
    with Network(survivor.port) as network:
        network.hold_up_at(PUBLISH)
        url = ",".join([network.url(), *(node.url() for node in others)])
        path = write_orders(tmp_path / "second", orders[100:])
        with changed("patient_producer", path, url=url) as sender:
            assert network.held.wait(60)
            for node in others:
                node.kill()
            network.release()
            time.sleep(3)  # in which to be wrong
            assert not sender.ended() and "Stored" not in sender.out, sender
            cluster.start()
            assert sender.wait(120) == 0, sender
    sender.wait_for("100 of 100 orders stored")
    count = left(survivor)
    assert set(count) == set(orders)
    assert sum(count.values()) <= 210, "at most the order in doubt of each try"


def test_rolling_restart_under_load_loses_nothing(cluster: Cluster, tmp_path: Path) -> None:
    notes, over = Notes(tmp_path / "notes"), threading.Event()
    published: list[str] = []

    def load_goes_on() -> None:
        enough = len(published) + 100
        wait_until(lambda: over.is_set() or len(published) >= enough, "a load")

    def roll() -> None:
        for node in cluster.nodes:
            load_goes_on()
            if over.is_set():
                return
            node.stop()
            node.start()
            wait_until(node.is_alive, "a node that lets clients in")

    with ExitStack() as stack:
        workers = [stack.enter_context(notes.consumer(cluster.url(node))) for node in cluster.nodes]
        pool = stack.enter_context(ThreadPoolExecutor(1))
        stack.callback(over.set)
        rolling = pool.submit(roll)
        while not rolling.done():
            batch = names(f"A-{len(published)}", 100)
            publish(cluster.url(), tmp_path / "orders", batch)
            published.extend(batch)
        rolling.result()
        notes.wait_for(published)
        for worker in workers:
            worker.stop()
    assert left(cluster.nodes[0]) == {}
    # Each was on a node that went down.
    assert all("trying again" in worker.out for worker in workers)
