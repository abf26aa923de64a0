"""A server as README.md's own commands set it up: for this RabbitMQ, and with shorter delays."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

from rig.node import Node, connect, wait_until
from rig.orders import SAMPLE_IDS, counts, order_json, put, put_orders, take_all, take_orders
from rig.processes import ENVIRONMENT, PRODUCER, ROOT, WORKER, Program, run

README = (ROOT / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.xdist_group("server")  # so that it is set up once


def commands(pattern: str) -> list[list[str]]:
    """Return the words of README.md's commands that the pattern fits."""
    found = [shlex.split(line) for line in re.findall(f"(?m)^{pattern}.*$", README)]
    assert found, f"README.md has no such command: {pattern}"
    return found


@pytest.fixture(scope="module")
def server(node: Node) -> Node:
    """The shared node, set up by README.md's commands."""
    version = tuple(map(int, node.version().split(".")))
    for words in commands("rabbitmqctl (?:add|set)_(?!parameter)"):
        if version < (4, 3, 1):
            words = [re.sub(r',"delayed-retry[^,}]*', "", word) for word in words]
        words = [re.sub(r'("delayed-retry-m..":)\d+', r"\g<1>10", word) for word in words]
        if version >= (4,) or '{"delivery-limit":-1}' not in words:
            node.command(*words)
    return node


@pytest.fixture
def url(server: Node) -> str:
    """The URL of README.md's user in its virtual host."""
    return server.url("shop", user="orders:PASSWORD")


@pytest.fixture
def shop(url: str) -> Iterator[Channel]:
    """A channel of that user, with an empty queue for dead letters, and without "orders"."""
    ((_, *words),) = commands("python3 -c 'import pika, producer")
    environment = {**ENVIRONMENT, "AMQP_URL": url}
    subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, check=True, timeout=20)
    with connect(url) as connection:
        channel = connection.channel()
        channel.queue_delete("orders")
        channel.queue_purge("orders.dead")
        yield channel


def wait_for_dead_letters(channel: Channel, number: int) -> None:
    wait_until(lambda: counts(channel, "orders.dead")[0] == number, "dead letters")


def test_both_scripts_work_with_the_users_rights_on_one_quorum_queue(
    server: Node, url: str, shop: Channel
) -> None:
    run(PRODUCER, url)
    consumer = run(WORKER, url, until="Processed 'ORD-005'")
    assert consumer.orders("Processed") == SAMPLE_IDS
    (words,) = commands("rabbitmqctl list_queues")
    rows = server.command(*words).splitlines()
    types = dict(row.split()[:2] for row in rows)
    assert (types["orders"], types["orders.dead"]) == ("quorum", "quorum")


def test_rejected_messages_are_kept_byte_for_byte(url: str, shop: Channel) -> None:
    bodies = [bytes(range(256)) * 40, order_json("A", refused="unknown customer")]
    put(shop, *bodies, order_json("B"))
    run(WORKER, url, until="Processed 'B'", errors="Rejecting")
    wait_for_dead_letters(shop, 2)
    assert take_all(shop, "orders.dead") == bodies
    ((*_, policy, _, _),) = commands(r"rabbitmqctl set_policy -p shop orders '\^orders\$'")
    assert '"at-least-once","overflow":"reject-publish"' in policy, "or some are lost on the way"
    assert '"failed","delayed-retry-min":60000,"delayed-retry-max":600000' in policy


def test_order_that_always_fails_is_dead_after_21_tries(url: str, shop: Channel) -> None:
    put(shop, order_json("FAILS", fails=1_000), order_json("B"))
    with Program(WORKER, url, 0, errors="Failed 'FAILS'") as consumer:
        consumer.wait_for("Processed 'B'")
        wait_for_dead_letters(shop, 1)
        consumer.stop()
    received = consumer.orders("Received")
    assert received.count("FAILS") == 21
    assert take_orders(shop, "orders.dead") == {"FAILS": 1}


def test_dead_letter_that_is_looked_at_is_kept(url: str, shop: Channel) -> None:
    """RabbitMQ 4 deletes what is given back more often than the limit of its queue."""
    shop.basic_publish("", "orders.dead", b"A")
    for _ in range(30):
        wait_for_dead_letters(shop, 1)
        method, _, _ = shop.basic_get("orders.dead")
        shop.basic_reject(method.delivery_tag, requeue=True)
    wait_for_dead_letters(shop, 1)


def test_shovel_publishes_dead_letters_again(server: Node, url: str, shop: Channel) -> None:
    bodies = [order_json("A"), order_json("B")]
    put_orders(shop)
    for body in bodies:
        shop.basic_publish("", "orders.dead", body)
    wait_for_dead_letters(shop, 2)
    for words in commands("rabbitmq-plugins") + commands("rabbitmqctl set_parameter"):
        server.command(*words)
    wait_until(lambda: counts(shop)[0] == 2, "the orders to come back")
    assert take_all(shop) == bodies
    wait_for_dead_letters(shop, 0)
    parameters = ["rabbitmqctl", "list_parameters", "-p", "shop"]
    wait_until(lambda: "again" not in server.command(*parameters), "it to remove itself")
