"""Fixtures: one RabbitMQ node a process, and empty queues for each test."""

import contextlib
import json
import os
import random
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from xdist.workermanage import NodeManager

from rig.broker import LIMIT, Broker, running

# What the README says that a user has to be allowed.
RIGHTS = {"configure": r"^orders(\.dead)?$", "write": r"^amq\.default$", "read": "^orders$"}
ALL = dict.fromkeys(RIGHTS, ".*")
FULL_AT_200 = {"pattern": "^orders$", "apply-to": "queues", "definition": {"max-length": 200}}
# What a node loads when it boots: by rabbitmqctl it takes two seconds a line.
DEFINITIONS = {
    "users": [
        {"name": "guest", "password": "guest", "tags": ""},
        {"name": "documented", "password": "s3cret", "tags": ""},
    ],
    "vhosts": [{"name": "/"}, {"name": "short"}],
    "permissions": [
        {"user": "guest", "vhost": "/", **ALL},
        {"user": "guest", "vhost": "short", **ALL},
        {"user": "documented", "vhost": "/", **RIGHTS},
    ],
    "policies": [{"vhost": "short", "name": "short", "priority": 0, **FULL_AT_200}],
}


def pytest_configure(config: pytest.Config) -> None:
    """Put all temporary files into one folder, and clean up after any of three signals.

    Ctrl-C too, since Python leaves SIGINT ignored where a shell has ignored it.
    """
    if not hasattr(config, "workerinput"):  # else it has a part of that folder
        folder = tempfile.TemporaryDirectory(prefix="orders-tests-")
        config.option.basetemp = Path(folder.name) / "pytest"
        config.add_cleanup(folder.cleanup)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    # A process that is booting a node has to end that, too, before pytest kills it.
    NodeManager.EXIT_TIMEOUT = LIMIT


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


@pytest.fixture
def draw() -> random.Random:
    """Random numbers; ORDERS_SEED in the environment brings those of a failed test again."""
    seed = os.environ.get("ORDERS_SEED") or str(random.randrange(1_000_000))
    print("ORDERS_SEED", seed)
    return random.Random(seed)
