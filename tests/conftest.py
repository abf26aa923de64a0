"""Fixtures: one RabbitMQ node for the whole run, and a virtual host of it for each process."""

import logging
import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

# The scripts read this when they are imported: no test may touch the user's RabbitMQ.
os.environ["AMQP_URL"] = "amqp://127.0.0.1:1"  # where nobody listens

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

pytest.register_assert_rewrite("rig")

from rig.node import Node, clean_up_at_signals, connect, known_nodes, running_node
from rig.processes import CONSUMER, PRODUCER, started_programs

for path in (CONSUMER, PRODUCER):  # or an import would run main(), which may never end
    assert path.read_text("utf-8").endswith('\nif __name__ == "__main__":\n    main()\n'), path


def of_the_process() -> list:
    """Return what an import of a script must not change."""
    pika_level = logging.getLogger("pika").level
    return [signal.getsignal(signal.SIGINT), logging.root.handlers[:], pika_level]


before = of_the_process()

import consumer
import producer

assert of_the_process() == before
for script in (consumer, producer):
    assert script.RABBITMQ.port == 1, f"{script} does not read AMQP_URL"
logging.getLogger("pika").setLevel("CRITICAL")  # its errors are seen as exceptions


def definitions(vhosts: list[str]) -> dict:
    """Return what the node shall have; in the virtual host "full" a queue takes 200 messages."""
    all_rights = {"user": "guest", "configure": ".*", "write": ".*", "read": ".*"}
    limit = {"max-length": 200, "overflow": "reject-publish"}
    return {
        "users": [{"name": "guest", "password": "guest", "tags": []}],
        "vhosts": [{"name": vhost} for vhost in vhosts],
        "permissions": [{**all_rights, "vhost": vhost} for vhost in vhosts],
        "policies": [{"vhost": "full", "name": "limit", "pattern": "", "definition": limit}],
    }


def pytest_configure(config: pytest.Config) -> None:
    """Start the node, but not in the processes that this one starts: they get its folder.

    What an order is, alone, can be tested without RabbitMQ.
    """
    clean_up_at_signals()
    needed = any("test_orders" not in argument for argument in config.args)
    if needed and "PYTEST_XDIST_WORKER" not in os.environ:
        processes = range(config.option.numprocesses or 0)
        vhosts = ["/", "full", "main", *(f"gw{number}" for number in processes)]
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
def module_node() -> Iterator[Node]:
    """A node for the tests of a module."""
    with running_node() as node:
        yield node


@pytest.fixture
def own_node(module_node: Node) -> Node:
    """A node that a test may let fail. It runs, without "orders"; another one may have let it."""
    module_node.start()
    emptied(module_node.url())
    return module_node


@pytest.fixture
def in_process(url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Let a test call the scripts' functions, in its virtual host. They do not change signals."""
    for script in (producer, consumer):
        monkeypatch.setattr(script, "RABBITMQ", pika.URLParameters(url))
    monkeypatch.setattr("signal.signal", lambda number, reaction: None)
    caplog.set_level("INFO")


@pytest.fixture
def slept(in_process: None, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the scripts' functions wanted to sleep; they do not. 100 times is enough."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        assert len(slept) < 100, "it never ends"

    monkeypatch.setattr("time.sleep", sleep)
    return slept
