"""Fixtures: one RabbitMQ node a process, and an empty queue for each test."""

import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

# The scripts read AMQP_URL when they are imported: no test may touch the user's RabbitMQ.
os.environ.pop("AMQP_URL", None)

import pytest  # noqa: E402
from pika.adapters.blocking_connection import BlockingChannel as Channel  # noqa: E402

pytest.register_assert_rewrite("rig")

from rig.node import Node, clean_up_at_signals, running_node, started_nodes  # noqa: E402
from rig.processes import started_programs  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    """Put all temporary files into one folder that goes with the run, and end well at signals."""
    if not hasattr(config, "workerinput"):  # else it has a part of that folder
        folder = tempfile.TemporaryDirectory(prefix="orders-tests-")
        config.option.basetemp = Path(folder.name) / "pytest"
        config.add_cleanup(folder.cleanup)
    clean_up_at_signals()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a test that failed what its programs said, and the end of the nodes' logs."""
    report = yield
    if report.failed:
        for program in started_programs:
            lines = [line[:300] for line in program.lines]
            some = lines if len(lines) <= 40 else [*lines[:20], "…", *lines[-20:]]
            report.sections.append((f"output of {program.name}", "\n".join(some)))
        for node in started_nodes:
            report.sections.append((f"log of {node.name}", node.log_end()))
    if report.when == "teardown":
        for program in started_programs:
            program.output.close()
        started_programs.clear()
    return report


@pytest.fixture(scope="session")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The node that most tests share."""
    with running_node(tmp_path_factory.mktemp("node")) as node:
        yield node


@pytest.fixture
def node(shared_node: Node) -> Node:
    """The shared node, without the queue "orders"."""
    if not shared_node.is_running():
        shared_node.start()
    with shared_node.connect() as connection:
        connection.channel().queue_delete("orders")
    return shared_node


@pytest.fixture
def channel(node: Node) -> Iterator[Channel]:
    """A channel of the test's own, on the shared node."""
    with node.connect() as connection:
        yield connection.channel()


@pytest.fixture
def full_at_200(node: Node) -> Iterator[None]:
    """Let the queue take 200 messages and refuse more, by a policy as an operator sets it."""
    definition = '{"max-length": 200, "overflow": "reject-publish"}'
    node.rabbitmqctl("set_policy", "full", "^orders$", definition, "--apply-to", "queues")
    yield
    node.rabbitmqctl("clear_policy", "full")
