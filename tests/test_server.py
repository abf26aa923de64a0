"""A server as README.md's own commands set it up: for this RabbitMQ, and with shorter delays."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

from rig.node import Node, connect, wait_until
from rig.orders import SAMPLE_IDS, order_json, put, take_all, take_orders, wait_for
from rig.processes import ENVIRONMENT, PRODUCER, ROOT, WORKER, Program, consume, publish

README = (ROOT / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.xdist_group("server")  # so that it is set up once


def commands(pattern):
    """Return the words of README.md's commands that the pattern fits."""
    found = [shlex.split(line) for line in re.findall(f"(?m)^{pattern}.*$", README)]
    assert found, f"README.md has no such command: {pattern}"
    return found


@pytest.fixture(scope="module")
def server(node: Node) -> Node:
    """The shared node, set up by README.md's commands."""
    inserted = re.search(r"From 4\.3\.1 on, insert after `20`: `(.*)`", README)
    assert inserted
    delays = re.sub(r"60+", "10", inserted[1])
    if [int(number) for number in re.findall(r"\d+", node.version())] < [4, 3, 1]:
        delays = ""
    for words in commands("rabbitmqctl (?:add|set)_(?!parameter)"):
        node.command(*(word.replace('":20}', f'":20{delays}}}') for word in words))
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


def test_both_scripts_work_with_the_users_rights_on_one_quorum_queue(server, url, shop):
    publish(PRODUCER, url)
    consumer = consume(WORKER, url, until="Processed 'ORD-005'")
    assert consumer.orders("Processed") == SAMPLE_IDS
    (words,) = commands("rabbitmqctl list_queues")
    rows = server.command(*words).splitlines()
    types = dict(row.split()[:2] for row in rows)
    assert (types["orders"], types["orders.dead"]) == ("quorum", "quorum")


def test_rejected_messages_are_kept_byte_for_byte(url, shop):
    """Even if RabbitMQ goes down on the way (at-least-once, which needs the overflow)."""
    for *_, policy, _, _ in commands(r"rabbitmqctl set_policy -p shop orders '\^orders\$'"):
        assert '"at-least-once","overflow":"reject-publish"' in policy
    bodies = [bytes(range(256)) * 40, order_json("A", refused="unknown customer")]
    put(shop, *bodies, order_json("B"))
    consume(WORKER, url, until="Processed 'B'", must_say="Rejecting")
    wait_for(shop, 2, "orders.dead")
    assert take_all(shop, "orders.dead") == bodies


def test_order_that_always_fails_is_dead_after_21_tries(url, shop):
    put(shop, order_json("FAILS", fails=1_000), order_json("B"))
    with Program(WORKER, url, must_say="^ERROR Failed: .*FAILS") as consumer:
        consumer.wait_for("Processed 'B'")
        wait_for(shop, 1, "orders.dead")
    assert consumer.orders("Received").count("FAILS") == 21
    assert take_orders(shop, "orders.dead") == {"FAILS": 1}


def test_order_that_kills_its_consumers_is_dead_after_21_tries(url, shop):
    put(shop, order_json("KILLS"))
    for _ in range(21):
        wait_for(shop, 1)
        with connect(url) as dying:
            assert dying.channel().basic_get("orders")[0]
    wait_for(shop, 1, "orders.dead")


def test_dead_letter_that_is_looked_at_is_kept(url, shop):
    """RabbitMQ 4 deletes what is given back more often than the limit of its queue.

    A limit of -1 would do, but 4.0 applies that anew every five seconds, each time with an entry in
    the queue's log that nothing cuts off.
    """
    shop.basic_publish("", "orders.dead", b"A")
    for _ in range(30):
        wait_for(shop, 1, "orders.dead")
        method, _, _ = shop.basic_get("orders.dead")
        shop.basic_reject(method.delivery_tag, requeue=True)
    wait_for(shop, 1, "orders.dead")


def test_shovel_publishes_dead_letters_again(server, url, shop):
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
    wait_until(
        lambda: "again" not in server.command("rabbitmqctl", "list_parameters", "-p", "shop"),
        "it to remove itself",
    )
