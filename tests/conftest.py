"""Fixtures: one RabbitMQ node a process, and empty queues for each test."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from xdist.workermanage import NodeManager

from rig.broker import LIMIT, Broker, running
from rig.orders import DEFINITIONS
from rig.programs import clean_up_after_signals


def pytest_configure(config: pytest.Config) -> None:
    """Put all temporary files into one folder, and clean up after any of three signals."""
    if not hasattr(config, "workerinput"):  # else it has a part of that folder
        folder = tempfile.TemporaryDirectory(prefix="orders-tests-")
        config.option.basetemp = Path(folder.name) / "pytest"
        config.add_cleanup(folder.cleanup)
    clean_up_after_signals()
    for name in ("AMQP_URL", "PROCESSING_TIME"):  # a test sets them for a script
        os.environ.pop(name, None)
    # After an interrupt pytest-xdist kills its processes when this has passed, by default 10 s,
    # and has no option for it. One that is booting a node needs longer to end that, too.
    NodeManager.EXIT_TIMEOUT = 2 * LIMIT


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The node that most tests share."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "definitions.json").write_text(json.dumps(DEFINITIONS))
    with running(Broker(folder, f"load_definitions = {folder}/definitions.json\n")) as broker:
        yield broker


@pytest.fixture
def broker(node: Broker) -> Broker:
    """The shared node, without any of our queues."""
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue_delete("orders")
        channel.queue_delete("orders.dead")
    return node


@pytest.fixture
def channel(broker: Broker) -> Iterator[Any]:
    """A channel of the test's own, on the shared node."""
    connection = broker.connect()
    yield connection.channel()
    with contextlib.suppress(pika.exceptions.AMQPError):  # some tests break it
        connection.close()
