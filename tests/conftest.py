"""Fixtures: one RabbitMQ node for the whole run, and a virtual host of it for each process."""

import logging
import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

# The scripts read AMQP_URL when they are imported: no test may touch the user's RabbitMQ.
os.environ.pop("AMQP_URL", None)

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

pytest.register_assert_rewrite("rig")
logging.getLogger("pika").setLevel("CRITICAL")  # its errors are seen as exceptions

import consumer
import producer
from rig.node import Node, clean_up_at_signals, connect, known_nodes, running_node
from rig.processes import started_programs


def definitions(vhosts: list[str]) -> dict:
    """Return what the node shall have; in the virtual host "full" a queue takes 200 messages."""
    everything = {"user": "guest", "configure": ".*", "write": ".*", "read": ".*"}
    limit = {"max-length": 200, "overflow": "reject-publish"}
    return {
        "users": [{"name": "guest", "password": "guest", "tags": ["administrator"]}],
        "vhosts": [{"name": vhost} for vhost in vhosts],
        "permissions": [{**everything, "vhost": vhost} for vhost in vhosts],
        "policies": [{"vhost": "full", "name": "limit", "pattern": "", "definition": limit}],
    }


def pytest_configure(config: pytest.Config) -> None:
    """Start the node, but not in the processes that this one starts: they get its folder."""
    clean_up_at_signals()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        vhosts = ["/", "full", "main", *(f"gw{number}" for number in range(8))]
        stack = ExitStack()
        config.add_cleanup(stack.close)
        node = stack.enter_context(running_node(definitions(vhosts)))
        os.environ["ORDERS_NODE"] = str(node.folder)
        os.environ["TMPDIR"] = tempfile.tempdir = str(node.folder)  # so that no file is left


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests of a group: among them are those that take long."""
    items.sort(key=lambda item: not item.get_closest_marker("xdist_group"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a test that failed what its programs said, and the end of RabbitMQ's log."""
    report = yield
    if report.failed:
        for program in started_programs:
            lines = [line[:300] for line in program.log]
            some = lines if len(lines) <= 40 else [*lines[:20], "…", *lines[-20:]]
            report.sections.append((f"output of {program.name}", "\n".join(some)))
        for node in known_nodes:
            report.sections.append((f"end of the log of {node.folder}", node.log_end()))
    if report.when == "teardown":
        started_programs.clear()
    return report


@pytest.fixture(scope="session")
def node() -> Node:
    """The node that all tests share, but those that let it fail."""
    return Node(Path(os.environ["ORDERS_NODE"]))


def emptied(url: str) -> str:
    """Return the URL when the queue "orders" is deleted there."""
    with connect(url) as connection:
        connection.channel().queue_delete("orders")
    return url


@pytest.fixture
def url(node: Node) -> str:
    """The AMQP URL of this process's virtual host, which has no queue "orders"."""
    return emptied(node.url(os.environ.get("PYTEST_XDIST_WORKER", "main")))


@pytest.fixture
def full_url(node: Node) -> str:
    """The AMQP URL of a virtual host whose queue takes 200 messages, and refuses more."""
    return emptied(node.url("full"))


@pytest.fixture
def channel(url: str) -> Iterator[Channel]:
    """A channel of the test's own."""
    with connect(url) as connection:
        yield connection.channel()


@pytest.fixture(scope="module")
def own_node() -> Iterator[Node]:
    """A node that a test may let fail."""
    with running_node() as node:
        yield node


@pytest.fixture
def slept(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> list[float]:
    """Let the test call the scripts' functions; return the seconds for which they wanted to sleep.

    They use the test's virtual host, and take no signals. A test may set consumer.stopping.
    """
    seconds: list[float] = []
    for script in (producer, consumer):
        monkeypatch.setattr(script, "RABBITMQ", pika.URLParameters(url))
    monkeypatch.setattr("time.sleep", seconds.append)
    monkeypatch.setattr("signal.signal", lambda number, reaction: None)
    monkeypatch.setattr(consumer, "stopping", False)
    caplog.set_level("INFO")
    return seconds
