"""A server as README.md sets it up: a virtual host of quorum queues, a policy, a user.

Its commands are taken out of README.md. On a RabbitMQ before 4.3 the policy is without the keys
that README.md says to leave out there; later its delays are shorter.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

from rig.node import Node, wait_until
from rig.orders import SAMPLE_IDS, order_json, put, put_orders, ready_count, take_all, take_orders
from rig.processes import ENVIRONMENT, ROOT, run_consumer, run_producer, start_consumer

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line) for line in re.findall(r"(?m)^rabbitmqctl (.*)$", README)]
DECLARE_DEAD, PUBLISH_AGAIN = re.findall(r"(?ms)^python3 -c '(.*?)'$", README)

pytestmark = pytest.mark.xdist_group("server")  # so that one node is set up for them all


def on_this_rabbitmq(argument: str, version: tuple[int, ...]) -> str:
    """Return a command's argument; in a policy with short delays, or with none before 4.3."""
    if not argument.startswith("{"):
        return argument
    policy = json.loads(argument)
    delays = [key for key in policy if key.startswith("delayed-retry")]
    assert len(delays) == 3
    for key in delays:
        if version < (4, 3):
            del policy[key]
        elif key != "delayed-retry-type":
            policy[key] = 10  # milliseconds
    return json.dumps(policy)


def run_python(code: str, amqp_url: str) -> None:
    """Run a line of Python as README.md says, in the project's folder."""
    environment = {**ENVIRONMENT, "AMQP_URL": amqp_url}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=20)


@pytest.fixture(scope="module")
def server(shared_node: Node) -> Node:
    """The shared node, set up by README.md's commands."""
    version = tuple(map(int, shared_node.rabbitmqctl("version").strip().split(".")))
    for command in COMMANDS:
        shared_node.rabbitmqctl(*(on_this_rabbitmq(each, version) for each in command))
    return shared_node


@pytest.fixture
def url(server: Node) -> str:
    """The URL of README.md's user in its virtual host."""
    return server.url("shop", user="orders:PASSWORD")


@pytest.fixture
def shop(url: str) -> Iterator[Channel]:
    """A channel of that user, with an empty queue for dead letters, and without "orders"."""
    run_python(DECLARE_DEAD, url)
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_delete("orders")
        channel.queue_purge("orders.dead")
        yield channel


def wait_for_dead_letter(channel: Channel) -> None:
    """Wait until there is one."""
    wait_until(lambda: ready_count(channel, "orders.dead") == 1, "a dead letter")


def test_message_that_is_no_order_is_kept_byte_for_byte(url: str, shop: Channel) -> None:
    body = bytes(range(256)) * 40
    put(shop, body, order_json("A"))
    run_consumer(url, until="Processed 'A'", errors="Rejecting", work="nothing")
    wait_for_dead_letter(shop)
    _, properties, dead = shop.basic_get("orders.dead", auto_ack=True)
    assert dead == body
    assert properties.headers["x-death"][0]["reason"] == "rejected"


def test_order_that_always_fails_is_dead_after_21_tries(url: str, shop: Channel) -> None:
    put_orders(shop, "FAILS", "B")
    failure = {"work": "failure", "on": "FAILS", "times": 1_000, "pause": 0}
    with start_consumer(url, errors="Failed 'FAILS'", **failure) as consumer:
        consumer.wait_for("Processed 'B'")
        wait_for_dead_letter(shop)
        consumer.stop()
    assert consumer.received.count("FAILS") == 21
    assert take_orders(shop, "orders.dead") == {"FAILS": 1}


def test_producer_has_all_the_rights_that_it_needs(url: str, shop: Channel) -> None:
    run_producer(url)
    assert take_orders(shop) == dict.fromkeys(SAMPLE_IDS, 1)


def test_dead_letters_are_published_again(url: str, shop: Channel) -> None:
    put_orders(shop)
    bodies = [order_json("A"), order_json("B")]
    for body in bodies:
        shop.basic_publish("", "orders.dead", body)
    wait_until(lambda: ready_count(shop, "orders.dead") == 2, "two dead letters")
    run_python(PUBLISH_AGAIN, url)
    assert take_all(shop) == bodies
    assert take_all(shop, "orders.dead") == []
