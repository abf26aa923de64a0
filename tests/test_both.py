"""What both scripts have to do with RabbitMQ and a user."""

import socket
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

import consumer
import producer
from rig.network import CONNECTION_CLOSE, Network
from rig.node import Node, free_port
from rig.processes import CONSUMER, PRODUCER, Program

each_script = pytest.mark.parametrize("script", [PRODUCER, CONSUMER], ids=["producer", "consumer"])
READY = "Stored 'ORD-005'|Waiting for orders"  # what it says when nothing is wrong


@pytest.mark.parametrize("script", [producer, consumer])
def test_connection_is_by_default_to_what_docker_compose_starts(script: ModuleType) -> None:
    """And with time limits as RabbitMQ and pika have them: see README for an alarm."""
    found = script.RABBITMQ
    assert (found.host, found.port, found.virtual_host) == ("localhost", 5672, "/")
    assert (found.credentials.username, found.credentials.password) == ("guest", "guest")
    assert (found.heartbeat, found.blocked_connection_timeout) == (None, None)


@each_script
def test_other_kind_of_queue_is_told_until_it_is_deleted(
    script: Path, url: str, channel: Channel
) -> None:
    """And each connection is closed before the next one."""
    channel.queue_declare("orders", durable=True, arguments={"x-max-priority": 5})
    with Network(url) as network, Program(script, network.url, errors="PRECONDITION") as process:
        process.wait_for("PRECONDITION_FAILED", times=3)
        assert network.sent.count(CONNECTION_CLOSE) >= 2
        assert process.count(READY) == 0
        channel.queue_delete("orders")
        process.wait_for(READY)


# RabbitMQ cannot be reached: they say it in one line, and try again a second later


@pytest.fixture
def silent_port() -> Iterator[int]:
    """The port of a RabbitMQ that is as if frozen: it lets us connect, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@each_script
@pytest.mark.parametrize("case", ["nobody", "silent", "unknown host", "wrong password"])
def test_failed_connection_is_told_in_a_line(
    script: Path, case: str, silent_port: int, node: Node
) -> None:
    where, path, error = {
        "nobody": (f"127.0.0.1:{free_port()}", "", "ConnectionRefusedError"),
        "silent": (f"127.0.0.1:{silent_port}", "/?stack_timeout=1", "StackTimeout"),
        "unknown host": ("rabbitmq.invalid:5672", "", "gaierror"),
        "wrong password": (f"127.0.0.1:{node.port}", "", "ACCESS_REFUSED"),
    }[case]
    with Program(script, f"amqp://guest:wr%40ng@{where}{path}", errors=error) as process:
        process.wait_for(rf"^ERROR Cannot .*RabbitMQ at {where}\b.*{error}", times=2)
    assert process.count("^ERROR Cannot") == len(process.lines), "no traceback"
    assert process.count("wr@ng|wr%40ng") == 0
