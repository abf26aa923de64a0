"""What both scripts have to do with RabbitMQ and a user."""

import socket
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

import consumer
import producer
from rig.node import Node, free_port
from rig.processes import Program, start_consumer, start_producer

Start = Callable[..., Program]
each_script = pytest.mark.parametrize(
    "start", [start_producer, start_consumer], ids=["producer", "consumer"]
)
READY = "Stored ORD-005|Waiting for orders"  # what it says when nothing is wrong


@pytest.mark.parametrize("script", [producer, consumer])
def test_connection_is_by_default_to_what_docker_compose_starts(script: ModuleType) -> None:
    """With heartbeats as RabbitMQ suggests (conftest.py has taken away the user's AMQP_URL)."""
    found = script.RABBITMQ
    assert (found.host, found.port, found.virtual_host) == ("localhost", 5672, "/")
    assert (found.credentials.username, found.credentials.password) == ("guest", "guest")
    assert found.heartbeat is None


# The queue


@each_script
def test_queue_is_a_plain_durable_one(start: Start, node: Node, channel: Channel) -> None:
    """As every other program declares it: RabbitMQ refuses a second way to declare a queue."""
    with start(node) as process:
        process.wait_for(READY)
    channel.queue_declare("orders", passive=True)  # fails if the script has not declared it
    channel.queue_declare("orders", durable=True)


@each_script
def test_other_kind_of_queue_is_told_until_it_is_deleted(
    start: Start, node: Node, channel: Channel
) -> None:
    channel.queue_declare("orders", durable=True, arguments={"x-max-priority": 5})
    with start(node, errors="PRECONDITION_FAILED") as process:
        process.wait_for("PRECONDITION_FAILED", times=2)
        assert process.count(READY) == 0
        channel.queue_delete("orders")
        process.wait_for(READY)


# Whatever goes wrong, they say it in one line, and try again a second later


@pytest.fixture
def silent_url() -> Iterator[str]:
    """The URL of a RabbitMQ that is as if frozen: it lets us connect, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"amqp://127.0.0.1:{server.getsockname()[1]}/?stack_timeout=1"


@each_script
@pytest.mark.parametrize("case", ["nobody", "silent", "wrong password"])
def test_failed_connection_is_told_in_a_line(
    start: Start, case: str, silent_url: str, node: Node
) -> None:
    url, error = {
        "nobody": (f"amqp://127.0.0.1:{free_port()}", "ConnectionRefusedError"),
        "silent": (silent_url, "StackTimeout"),
        "wrong password": (node.url(user="guest:wr%40ng"), "ACCESS_REFUSED"),
    }[case]
    with start(url, errors=error) as process:
        process.wait_for(f"^ERROR Cannot .* RabbitMQ at 127.0.0.1:[0-9]+.*{error}", times=2)
    assert process.count("^ERROR Cannot") == len(process.lines), "no traceback"
    assert process.count("wr@ng|wr%40ng") == 0


@each_script
def test_connection_is_tried_again_each_second(start: Start) -> None:
    with start(f"amqp://127.0.0.1:{free_port()}", errors="ConnectionRefused") as process:
        process.wait_for("ERROR", times=4)
    first, *_, last = process.moments("ERROR")[:4]
    assert 2.9 < last - first < 5.9
