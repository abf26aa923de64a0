"""Fixtures: one RabbitMQ node a process, and empty queues for each test."""

import os
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

# So that plain pytest, or an editor's button, finds the rig and the scripts; and as the scripts
# read AMQP_URL when they are imported. A test sets it for a script; the user's is not touched.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
os.environ.pop("AMQP_URL", None)

import pytest  # noqa: E402
from pika.adapters.blocking_connection import BlockingChannel as Channel  # noqa: E402

from rig.node import Node, running_node, started_nodes  # noqa: E402
from rig.orders import QUEUES  # noqa: E402
from rig.scripts import started_programs  # noqa: E402
from rig.tools import clean_up_after_signals  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    """Put all temporary files into one folder, and clean up after any of three signals."""
    if not hasattr(config, "workerinput"):  # else it has a part of that folder
        folder = tempfile.TemporaryDirectory(prefix="orders-tests-")
        config.option.basetemp = Path(folder.name) / "pytest"
        config.add_cleanup(folder.cleanup)
    clean_up_after_signals()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a test that failed what its programs said, and the end of the nodes' logs."""
    report = yield
    if report.failed:
        for program in started_programs:
            report.sections.append((f"output of {program.name}", program.out))
        for node in started_nodes:
            if node.is_running():
                report.sections.append((f"log of {node.node_name}", node.log_end()))
    if report.when == "teardown":
        started_programs.clear()
    return report


@pytest.fixture(scope="session")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The node that most tests share."""
    with running_node(Node(tmp_path_factory.mktemp("node"))) as node:
        yield node


@pytest.fixture
def node(shared_node: Node) -> Node:
    """The shared node, without any of our queues."""
    with shared_node.connect() as connection:
        channel = connection.channel()
        for queue in QUEUES:
            channel.queue_delete(queue)
    return shared_node


@pytest.fixture
def full_at_200(node: Node) -> Iterator[None]:
    """Let the queue take 200 messages and refuse more, by a policy as an operator sets it."""
    definition = '{"max-length": 200, "overflow": "reject-publish"}'
    node.rabbitmqctl("set_policy", "full", "^orders$", definition, "--apply-to", "queues")
    yield
    node.rabbitmqctl("clear_policy", "full")


@pytest.fixture
def channel(node: Node) -> Iterator[Channel]:
    """A channel of the test's own, on the shared node."""
    with node.connect() as connection:
        yield connection.channel()
