"""What both scripts have to do with a broker, a user and each other."""

import re
import socket
from collections.abc import Callable, Iterator
from subprocess import DEVNULL
from types import ModuleType

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

import consumer
import producer
from rig.changes import work_is_nothing
from rig.network import Network
from rig.node import SPEED, Node, wait_until
from rig.orders import order_json, put, ready_count
from rig.scripts import Program, nowhere, run_consumer, run_producer, start_consumer, start_producer

Start = Callable[..., Program]
each = pytest.mark.parametrize(
    "start", [start_producer, start_consumer], ids=["producer", "consumer"]
)
READY = "Stored 'ORD-005'|Waiting for orders"  # what it says when nothing is wrong


# The queues


@each
def test_queues_are_plain_durable_ones(start: Start, node: Node, channel: Channel) -> None:
    """As every other program declares them: RabbitMQ refuses a second way to declare a queue."""
    with start(node) as process:
        process.wait_for(READY)
    for queue in ("orders", "orders.dead") if start is start_consumer else ("orders",):
        channel.queue_declare(queue, passive=True)  # fails if the script has not declared it
        channel.queue_declare(queue, durable=True)


@each
def test_other_kind_of_queue_is_told_until_it_is_deleted(
    start: Start, node: Node, channel: Channel
) -> None:
    channel.queue_declare("orders", durable=True, arguments={"x-max-priority": 5})
    with start(node) as process:
        process.wait_for("ERROR .*PRECONDITION_FAILED", times=2)
        assert not re.search(READY, process.out)
        channel.queue_delete("orders")
        process.wait_for(READY)
    assert "Traceback" not in process.out


# What they say


@each
def test_all_it_says_goes_to_standard_error(start: Start, node: Node, channel: Channel) -> None:
    put(channel, b"no order")
    with start(node, stderr=DEVNULL) as process:
        if start is start_consumer:
            wait_until(lambda: ready_count(channel, "orders.dead") == 1, "it is moved")
            process.signal()
        assert process.wait() == 0
    assert process.lines == []


CRAFTED = ["\x1b[2J", "\x9b31m", "A\x85\u2028\u2029Z", "\u202eDEGROF\u202c", "A\x00\x08"]
CRAFTED += [f"A{end}2026-11-25 20:30:15,297 INFO Processed FORGED" for end in "\n\r"]


def test_crafted_order_cannot_forge_a_log_line_nor_steer_the_terminal(
    node: Node, channel: Channel
) -> None:
    put(channel, *(order_json("A", customer=text) for text in CRAFTED))
    put(channel, *(order_json("A", amount=text) for text in CRAFTED))
    put(channel, *(text.encode() for text in CRAFTED))
    put(channel, order_json("B"), headers={"tries": CRAFTED[-1]})
    sent = run_producer(node, orders=[*CRAFTED, "LAST"])
    got = run_consumer(node, work_is_nothing, until="Processed 'LAST'")
    assert len(sent.lines) == len(CRAFTED) + 1
    assert got.count("^INFO Received") == 4 * len(CRAFTED) + 2
    assert got.count("^WARNING Stored a copy") == 2 * len(CRAFTED) + 1
    for line in sent.lines + got.lines[:-2]:
        assert re.match("(INFO|WARNING) (Stored|Waiting|Received|Processed)", line), ascii(line)
        assert line.isprintable(), ascii(line)
        assert line != "INFO Processed FORGED"


# The connection


@pytest.mark.parametrize("script", [producer, consumer])
def test_connection_is_by_default_to_what_docker_compose_starts(script: ModuleType) -> None:
    """With pika's own limits in time (conftest.py has taken away the user's AMQP_URL)."""
    found = script.RABBITMQ
    assert (found.host, found.port, found.virtual_host) == ("localhost", 5672, "/")
    assert (found.credentials.username, found.credentials.password) == ("guest", "guest")
    assert found.ssl_options is found.heartbeat is found.blocked_connection_timeout is None


# Whatever goes wrong, they say it in one line and try again a second later


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a RabbitMQ that is as if frozen: it lets us connect, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"amqp://127.0.0.1:{server.getsockname()[1]}/?stack_timeout=1"


@each
@pytest.mark.parametrize("case", ["nobody", "unknown host", "silent", "wrong password"])
def test_failed_connection_is_told_in_a_line_and_tried_again(
    start: Start, case: str, silent: str, node: Node
) -> None:
    url, error = {
        "nobody": (nowhere(), "ConnectionRefusedError"),
        "unknown host": ("amqp://nobody.invalid", "gaierror"),
        "silent": (silent, "StackTimeout"),
        "wrong password": (node.url("guest:wr%40ng"), "ACCESS_REFUSED"),
    }[case]
    host = pika.URLParameters(url).host
    with start(url) as process:
        process.wait_for(f"^ERROR RabbitMQ at {host}:[0-9]+.*{error}", times=2)
    assert all(line.startswith("ERROR RabbitMQ at") for line in process.lines)
    assert "wr@ng" not in process.out and "wr%40ng" not in process.out


def test_consumer_tries_for_ever_and_stops_at_a_signal() -> None:
    """A second apart, as a producer does (which gives up after thirty)."""
    with Network() as network, start_consumer(network) as process:
        process.wait_for("ERROR", times=35)
        process.stop()
    moments = process.moments_of("ERROR")
    assert 33.9 < moments[34] - moments[0] < 34 + 10 / SPEED
    assert network.connections <= len(moments) + 1, "one each, and one as it stops"
