"""Fixtures: one RabbitMQ node a process, and empty queues for each test."""

import contextlib
import json
import os
import random
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

from rig.node import Node, running_node, started_nodes
from rig.orders import DEFINITIONS
from rig.scripts import started_programs
from rig.tools import clean_up_after_signals


def pytest_configure(config: pytest.Config) -> None:
    """Put all temporary files into one folder, and clean up after any of three signals."""
    if not hasattr(config, "workerinput"):  # else it has a part of that folder
        folder = tempfile.TemporaryDirectory(prefix="orders-tests-")
        config.option.basetemp = Path(folder.name) / "pytest"
        config.add_cleanup(folder.cleanup)
    clean_up_after_signals()
    os.environ.pop("AMQP_URL", None)  # a test sets it for a script; the user's is not touched


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


@pytest.fixture(autouse=True)
def seed() -> None:
    """Print what repeats the random numbers of a test; pytest shows it if the test fails."""
    number = int(os.environ.get("SEED", random.randrange(10**6)))
    random.seed(number)
    print(f"SEED={number}")


@pytest.fixture(scope="session")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The node that most tests share."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "definitions.json").write_text(json.dumps(DEFINITIONS))
    with running_node(Node(folder, f"load_definitions = {folder}/definitions.json\n")) as node:
        yield node


@pytest.fixture
def node(shared_node: Node) -> Node:
    """The shared node, without any of our queues."""
    with shared_node.connect() as connection:
        channel = connection.channel()
        channel.queue_delete("orders")
        channel.queue_delete("orders.dead")
    return shared_node


@pytest.fixture
def channel(node: Node) -> Iterator[Channel]:
    """A channel of the test's own, on the shared node."""
    connection = node.connect()
    with contextlib.suppress(pika.exceptions.AMQPError):  # some tests break it
        with connection:
            yield connection.channel()
