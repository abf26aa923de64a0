"""A server as README.md's own commands set it up: for this RabbitMQ, and with shorter delays."""

import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

from rig.node import Node, connect, log_end, running_node
from rig.orders import SAMPLE_IDS, order_json, put, take_all, take_ids, wait_for
from rig.processes import ENVIRONMENT, PRODUCER, ROOT, WORKER, Program, consume, publish
from rig.waiting import wait_until

README = (ROOT / "README.md").read_text(encoding="utf-8")

SHOP = ("shop", "orders:PASSWORD")  # README.md's virtual host and user
pytestmark = pytest.mark.xdist_group("server")  # so that it is set up once


def commands(pattern):
    """Return the words of README.md's commands that the pattern fits."""
    found = [shlex.split(line) for line in re.findall(f"(?m)^{pattern}.*$", README)]
    assert found, f"README.md has no such command: {pattern}"
    return found


def delays(node):
    """Return what README.md inserts for this RabbitMQ, with 10 ms for a minute, 100 ms for ten."""
    (delays,) = re.findall(r"From 4\.3\.1 on, insert after `20`: `(.*)`", README)
    version = re.findall(r"\d+", node.command("rabbitmqctl", "version"))
    return delays.replace("60000", "10") if [*map(int, version)] >= [4, 3, 1] else ""


@pytest.fixture(scope="module")
def server() -> Iterator[Node]:
    """A node of these tests' own, set up by README.md's commands, but with shorter delays."""
    with running_node() as node:
        limit = '"delivery-limit":20'
        longer = limit + delays(node)
        for words in commands("rabbitmqctl (?:add|set|delete)_(?!parameter)"):
            node.command(*(word.replace(limit, longer) for word in words))
        ((_, *words),) = commands("python3 -c 'import pika, producer")
        environment = {**ENVIRONMENT, "AMQP_URL": node.url(*SHOP)}
        subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, check=True)
        yield node


@pytest.fixture
def shop(server: Node) -> Iterator[Channel]:
    """A channel of README.md's user, with an empty "orders.dead", and without "orders"."""
    with connect(server.url(*SHOP)) as connection:
        channel = connection.channel()
        channel.queue_delete("orders")
        channel.queue_purge("orders.dead")
        yield channel
    logging.info(log_end(server.folder))  # pytest shows it with a test that failed


def test_both_scripts_work_with_the_users_rights_on_one_quorum_queue(server, shop):
    publish(PRODUCER, server.url(*SHOP))
    consumer = consume(WORKER, server.url(*SHOP), until="Processed 'ORD-005'")
    assert consumer.orders("Processed") == SAMPLE_IDS
    (words,) = commands("rabbitmqctl list_queues")
    types = dict(row.split()[:2] for row in server.command(*words).splitlines())
    assert (types["orders"], types["orders.dead"]) == ("quorum", "quorum")


def test_rejected_messages_are_kept_byte_for_byte(server, shop):
    bodies = [bytes(range(256)) * 40, order_json("A", refused="unknown customer")]
    put(shop, *bodies, order_json("B"))
    consume(WORKER, server.url(*SHOP), until="Processed 'B'", must_say="Rejecting")
    wait_for(shop, 2, "orders.dead")
    assert take_all(shop, "orders.dead") == bodies


def test_order_that_always_fails_is_dead_after_21_tries(server, shop):
    put(shop, order_json("FAILS", fails=1_000), order_json("B"))
    with Program(WORKER, server.url(*SHOP), must_say="^ERROR Failed: .*FAILS") as consumer:
        consumer.wait_for("Processed 'B'")
        wait_for(shop, 1, "orders.dead")
    received = consumer.orders("Received")
    assert received.count("FAILS") == 21
    assert not delays(server) or received[1] == "B", "from 4.3.1 on, others go first"
    assert take_ids(shop, "orders.dead") == ["FAILS"]


def test_order_whose_consumers_leave_without_an_answer_is_dead_after_21_tries(server, shop):
    """A consumer leaves so if its order kills it, or if it is stopped."""
    put(shop, order_json("KILLS"))
    for _ in range(21):
        wait_for(shop, 1)
        with connect(server.url(*SHOP)) as leaving:
            assert leaving.channel().basic_get("orders")[0]
    wait_for(shop, 1, "orders.dead")


def test_dead_letter_that_is_looked_at_is_kept(server, shop):
    """RabbitMQ 4 deletes what is given back more often than its queue's limit, by default 20."""
    shop.basic_publish("", "orders.dead", b"A")
    for _ in range(30):
        wait_for(shop, 1, "orders.dead")
        method, _, _ = shop.basic_get("orders.dead")
        shop.basic_reject(method.delivery_tag, requeue=True)
    wait_for(shop, 1, "orders.dead")


def test_shovel_publishes_dead_letters_again(server, shop):
    bodies = [order_json("A"), order_json("B")]
    put(shop)
    for body in bodies:
        shop.basic_publish("", "orders.dead", body)
    wait_for(shop, 2, "orders.dead")
    for words in commands("rabbitmq-plugins") + commands("rabbitmqctl set_parameter"):
        server.command(*words)
    wait_for(shop, 2)
    assert take_all(shop) == bodies
    wait_for(shop, 0, "orders.dead")
    parameters = ["rabbitmqctl", "list_parameters", "-p", "shop"]
    wait_until(lambda: "again" not in server.command(*parameters), "the shovel to remove itself")
