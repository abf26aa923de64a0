"""A server as tests/server.md's own commands set it up."""

import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel
from pika.exceptions import ProbableAuthenticationError

from rig.node import Node, connect, log_end, running_node
from rig.orders import SAMPLE_IDS, order_json, put, take_ids, wait_for_ready
from rig.processes import ENVIRONMENT, PRODUCER, ROOT, TESTS, WORKER, Program, run_producer
from rig.waiting import LIMIT, wait_until

PAGE = (TESTS / "server.md").read_text(encoding="utf-8")

SHOP = ("shop", "orders:PASSWORD")  # the page's virtual host and user
pytestmark = pytest.mark.xdist_group("server")  # so that it is set up once


def commands(pattern):
    """Return the words of the page's commands that the pattern fits."""
    found = [shlex.split(line) for line in re.findall(f"(?m)^{pattern}.*$", PAGE)]
    assert found, f"tests/server.md has no such command: {pattern}"
    return [[word.replace("$PASSWORD", "PASSWORD") for word in words] for words in found]


def python(node, pattern):
    """Run a Python line of the page, as its user."""
    ((_, *words),) = commands(pattern)
    environment = {**ENVIRONMENT, "AMQP_URL": node.url(*SHOP)}
    subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, check=True, timeout=LIMIT)


@pytest.fixture(scope="module")
def server() -> Iterator[Node]:
    """A node of these tests' own, set up by the page's commands."""
    with running_node() as node:
        for words in commands("rabbitmqctl (?:add|set|delete)_(?!parameter)"):
            node.command(*words)
        python(node, "python3 -c 'import pika, producer; pika")
        yield node


@pytest.fixture
def shop(server: Node) -> Iterator[Channel]:
    """A channel of the page's user, with an empty "orders.dead", and without "orders"."""
    with connect(server.url(*SHOP)) as connection:
        channel = connection.channel()
        channel.queue_delete("orders")
        channel.queue_purge("orders.dead")
        yield channel
    logging.info(log_end(server.folder))  # pytest shows it with a test that failed


def test_pages_test_shows_what_the_page_says(server, shop):
    """Five orders are processed, one is rejected and kept, then deleted. It is all quorum."""
    run_producer(PRODUCER, server.url(*SHOP))
    python(server, "python3 -c 'from producer import publish")
    with Program(WORKER, server.url(*SHOP), may_say="Rejecting") as consumer:
        wait_for_ready(shop, 1, "orders.dead")
    assert consumer.orders("Processed") == SAMPLE_IDS
    (words,) = commands("rabbitmqctl list_queues -p shop name type")
    rows = [row.split()[:3] for row in server.command(*words).splitlines()]
    assert ["orders", "quorum", "orders"] in rows
    assert ["orders.dead", "quorum", "orders.dead"] in rows
    with pytest.raises(ProbableAuthenticationError):
        connect(server.url("shop"))  # as guest
    server.command(*re.findall("`(rabbitmqctl purge_queue .*?)`", PAGE)[0].split())
    wait_for_ready(shop, 0, "orders.dead")


def test_order_that_always_fails_is_dead_after_21_tries(server, shop):
    put(shop, order_json("FAILS", fails=1_000), order_json("B"))
    with Program(WORKER, server.url(*SHOP), may_say="^ERROR Failed: .*FAILS") as consumer:
        consumer.wait_for("Processed 'B'")
        wait_until(lambda: consumer.count("Received 'FAILS'") == 21, "21 tries")
        wait_for_ready(shop, 1, "orders.dead")
    assert consumer.orders("Received").count("FAILS") == 21
    assert take_ids(shop, "orders.dead") == ["FAILS"]
