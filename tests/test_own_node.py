"""RabbitMQ itself is stopped, killed, short of memory or set up otherwise: each its own node."""

import re
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trustme

from rig.changes import orders_are, patient, work_takes, work_waits
from rig.network import PUBLISH, Network
from rig.node import LIMIT, Node, free_ports, let_new_queues_settle, running_node
from rig.orders import drain, ids, put_orders
from rig.scripts import start_consumer, start_producer


@pytest.mark.parametrize("end", [Node.stop, Node.kill], ids=["stopped", "killed"])
def test_rabbitmq_that_goes_down_loses_nothing(tmp_path: Path, end: Callable[[Node], None]) -> None:
    """One order is just done, one in hand, 100 wait, and more are being sent."""
    sent, waiting = ids("SENT", 500), ids("WAITED", 100)
    with running_node(Node(tmp_path)) as node:
        with node.connect() as connection:
            put_orders(connection.channel(), "DONE")
            let_new_queues_settle()
            with start_consumer(node, work_takes) as first:
                first.wait_for("Processed 'DONE'")
                first.stop()
            put_orders(connection.channel(), "IN-HAND", *waiting)
        # An acknowledgement has no confirmation that one could wait for. A killed RabbitMQ may
        # forget one that came in the last moment; DONE's is older than that.
        time.sleep(1)
        with Network(node.port) as network:
            network.pause = 0.02  # or the producer is done too early
            with (
                start_producer(network, patient, partial(orders_are, order_ids=sent)) as producer,
                start_consumer(node, work_waits) as consumer,
            ):
                producer.wait_for("Stored", 50)
                consumer.wait_for("begin IN-HAND")
                end(node)
                consumer.close_input()
                network.pause = 0
                node.start()
                assert producer.wait(2 * LIMIT) == 0
                consumer.wait_for(r"Received 'IN-HAND' \(redelivered\): ")
                consumer.stop()
        with node.connect() as connection:
            left = drain(connection.channel(), "orders")
            assert not drain(connection.channel(), "orders.dead")
    assert producer.stored == sent
    assert producer.count("ERROR") >= 1, "it was amid its work"
    # A killed RabbitMQ may deliver others before it gives IN-HAND back.
    everything = left + Counter(consumer.processed)
    assert set(everything) == {"IN-HAND", *waiting, *sent}, "none is lost, and DONE is not back"
    assert sum(everything.values()) <= len(everything) + 1, "only the order in doubt"


def test_order_taken_back_after_consumer_timeout_comes_again(tmp_path: Path) -> None:
    """RabbitMQ 4.0 closes the channel for it, and 4.3 cancels the consumer."""
    settings = "-rabbit consumer_timeout 2000"  # in ms; and it looks every second
    settings += " -rabbit channel_tick_interval 1000 -rabbit quorum_tick_interval 1000"
    node = Node(tmp_path, RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=settings)
    with running_node(node), node.connect() as connection:
        put_orders(connection.channel(), "A", "B")
        with start_consumer(node, work_waits) as consumer:
            consumer.wait_for("begin A")
            time.sleep(8)  # RabbitMQ 4.3 tells the consumer only when that reads it, after the work
            consumer.close_input()
            consumer.wait_for("Processed 'B'")
            consumer.stop()
        assert not drain(connection.channel())
    assert consumer.texts("Received ('.*?'.*?):") == ["'A'", "'A' (redelivered)", "'B'"]
    assert consumer.count("ERROR .*(Channel is closed|timed out|cancelled by RabbitMQ)") == 1


def test_producer_waits_while_memory_is_short_then_stores_each_once(tmp_path: Path) -> None:
    config = "vm_memory_high_watermark.absolute = 1MB\n"  # it is short from the start
    with running_node(Node(tmp_path, config)) as node, Network(node.port) as network:
        network.hold_up_at(PUBLISH)
        with start_producer(network) as producer:
            assert network.held.wait(LIMIT)
            network.release()
            time.sleep(5)  # in which to be wrong
            assert not producer.ended() and len(producer.lines) == 1, producer
            node.rabbitmqctl("set_vm_memory_high_watermark", "0.6")
            assert producer.wait() == 0
        assert network.connections == 1
        with node.connect() as connection:
            assert drain(connection.channel(), "orders") == dict.fromkeys(producer.stored, 1)


# TLS


def tls_node(folder: Path, host: str) -> tuple[Node, int]:
    """Return a node with a certificate for that host, from folder/ca.pem, and its TLS port."""
    authority, port = trustme.CA(), free_ports(1)[0]
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert(host).private_key_and_cert_chain_pem.write_to_path(folder / "pem")
    config = f"listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {folder}/ca.pem\n"
    config += f"ssl_options.certfile = {folder}/pem\nssl_options.keyfile = {folder}/pem\n"
    return Node(folder / "node", config), port


def test_scripts_wait_for_rabbitmq_its_user_and_its_rights_by_tls(tmp_path: Path) -> None:
    """Nobody need start them again: RabbitMQ is not up yet, then has no such user."""
    node, port = tls_node(tmp_path, "localhost")
    url = f"amqps://late:p%40s@localhost:{port}"
    authority = {"SSL_CERT_FILE": f"{tmp_path}/ca.pem"}
    with (
        start_producer(url, patient, environment=authority) as producer,
        start_consumer(url, work_takes, environment=authority) as consumer,
    ):
        for process in (producer, consumer):
            process.wait_for("ERROR .*ConnectionRefusedError")
        with running_node(node):
            for process in (producer, consumer):
                process.wait_for("ERROR .*ACCESS_REFUSED")
            node.rabbitmqctl("add_user", "late", "p@s")
            node.rabbitmqctl("set_permissions", "late", ".*", ".*", ".*")
            assert producer.wait() == 0
            consumer.wait_for("Processed 'ORD-005'")
            consumer.stop()
    assert consumer.count("Waiting for orders") == 1, "said when it does, not before"


def test_certificate_for_another_host_gets_no_password(tmp_path: Path) -> None:
    node, port = tls_node(tmp_path, "elsewhere.example")
    url = f"amqps://guest:guest@localhost:{port}"
    authority = {"SSL_CERT_FILE": f"{tmp_path}/ca.pem"}
    with running_node(node):
        for start in (start_producer, start_consumer):
            with start(url, environment=authority) as process:
                process.wait_for("ERROR .*CERTIFICATE_VERIFY_FAILED", times=2)
            assert not re.search("Stored|Waiting", process.out)
