"""Fixtures: one RabbitMQ node for the whole run, and a virtual host of it for each process."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from signal import SIG_DFL, SIGINT, getsignal

# The scripts read this when they are imported: no test may touch the user's RabbitMQ.
os.environ["AMQP_URL"] = "amqp://127.0.0.1:1"  # where nobody listens

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

pytest.register_assert_rewrite("rig")

from rig.node import INSTALLED, Node, connect, log_end, running_node
from rig.processes import CONSUMER, PRODUCER
from rig.waiting import LIMIT

# Nothing may hang: what is waited for has shorter limits of its own.
os.environ.setdefault("PYTEST_TIMEOUT", str(15 * LIMIT))

for path in (CONSUMER, PRODUCER):
    assert '\nif __name__ == "__main__":\n' in path.read_text("utf-8"), f"an import runs {path}"

import consumer
import producer

for script in (consumer, producer):
    assert script.RABBITMQ.port == 1, f"{script} does not read AMQP_URL"
assert not logging.root.handlers and not logging.getLogger("pika").level, "import changes logs"
assert getsignal(SIGINT) != SIG_DFL, "an import changes signals"
logging.getLogger("pika").setLevel("CRITICAL")  # its errors are seen as exceptions


def definitions(vhosts: list[str]) -> dict:
    """Return what the node shall have. A queue takes 20 messages, and refuses more."""
    all_rights = {"user": "guest", "configure": ".*", "write": ".*", "read": ".*"}
    limit = {"max-length": 20, "overflow": "reject-publish"}
    policy = {"name": "limit", "pattern": "^orders$", "definition": limit}
    return {
        "users": [{"name": "guest", "password": "guest", "tags": []}],
        "vhosts": [{"name": vhost} for vhost in vhosts],
        "permissions": [{"vhost": vhost, **all_rights} for vhost in vhosts],
        "policies": [{"vhost": vhost, **policy} for vhost in vhosts],
    }


@pytest.hookimpl(tryfirst=True)  # before xdist starts its processes
def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the node, but not in the processes that this one starts: they get its URL."""
    if "PYTEST_XDIST_WORKER" in os.environ or not INSTALLED:
        return
    processes = range(2 * (session.config.option.numprocesses or 0))  # some may replace others
    stack = ExitStack()
    session.config.add_cleanup(stack.close)
    vhosts = ["main", *(f"gw{number}" for number in processes)]
    try:
        node = stack.enter_context(running_node(definitions(vhosts)))
    except AssertionError as error:
        pytest.exit(str(error), returncode=1)
    os.environ["ORDERS_NODE"] = node.url()
    os.environ["TMPDIR"] = tempfile.tempdir = str(node.folder)  # so that no file is left


@pytest.fixture
def url() -> Iterator[str]:
    """The AMQP URL of this process's virtual host, which has no queue "orders" yet."""
    node = os.environ.get("ORDERS_NODE")
    assert node, "no RabbitMQ was started: is it installed? tests/run installs it"
    url = node + os.environ.get("PYTEST_XDIST_WORKER", "main")
    with connect(url) as connection:
        connection.channel().queue_delete("orders")
    yield url
    logging.info(log_end(tempfile.gettempdir()))  # pytest shows it with a test that failed


@pytest.fixture
def channel(url: str) -> Iterator[Channel]:
    with connect(url) as connection:
        yield connection.channel()


@pytest.fixture
def own_node() -> Iterator[Node]:
    """A node that the test may let fail."""
    with running_node() as node:
        yield node
        logging.info(log_end(node.folder))


@pytest.fixture
def in_process(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test call the scripts' functions, in its virtual host. They do not change signals."""
    for script in (producer, consumer):
        monkeypatch.setattr(script, "RABBITMQ", pika.URLParameters(url))
    monkeypatch.setattr("signal.signal", lambda number, reaction: None)


@pytest.fixture
def slept(in_process: None, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the scripts' functions want to sleep. They do not, and may 9,999 times.

    Connections sleep in the same way.
    """
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        assert len(slept) < 10_000, "it never ends"

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr("pika.BlockingConnection.sleep", lambda connection, seconds: sleep(seconds))
    return slept
