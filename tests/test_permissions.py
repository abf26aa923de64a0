"""Least privilege: users who may not declare queues, where an operator has done it."""

from typing import Any, Dict

import pytest

from rig.broker import Broker, wait_until
from rig.orders import messages, ready
from rig.scripts import consumer, patched, producer

NOTHING = "^$"
# What each script needs, as RabbitMQ has it: to configure, to write, to read.
PERMISSIONS = {
    "publisher": [NOTHING, "^amq.default$", NOTHING],
    "worker": [NOTHING, NOTHING, "^orders$"],
}


@pytest.fixture(scope="module")
def users(node: Broker) -> Dict[str, str]:
    """Give a user to each script, with no more than it needs; return their URLs."""
    for user, permissions in PERMISSIONS.items():
        node.rabbitctl_output("add_user", user, "secret")
        node.rabbitctl_output("set_permissions", user, *permissions)
    return {user: node.url(user, "secret") for user in PERMISSIONS}


def declare(broker: Broker) -> None:
    """Declare the queues, as an operator does who may."""
    changes = "producer.connect()\nraise SystemExit"
    with patched("producer", changes, url=broker.url()) as script:
        assert script.wait() == 0, script


def test_orders_go_through_without_the_right_to_declare(
    broker: Broker, channel: Any, users: Dict[str, str]
) -> None:
    declare(broker)
    channel.basic_publish("", "orders", b"no order")
    with producer(broker, url=users["publisher"]) as script:
        assert script.wait() == 0, script
    options = ["--count", 5, "--processing-time", 0]
    with consumer(broker, *options, url=users["worker"]) as worker:
        assert worker.wait() == 0, worker
    assert script.err == ""
    assert "5 of 5 orders stored" in script.out
    (rejected,) = worker.lines["stderr"]
    assert "Rejected" in rejected
    assert "(5 orders in " in worker.out
    assert ready(channel) == 0
    wait_until(lambda: ready(channel, "orders.dead") == 1, "it is dead")
    assert [body for _, _, body in messages(channel, "orders.dead")] == [b"no order"]


def test_queue_that_nobody_has_declared_is_missed(
    broker: Broker, users: Dict[str, str]
) -> None:
    """Both go on as soon as somebody has declared it."""
    with producer(broker, url=users["publisher"]) as script, consumer(
        broker, "--count", 5, "--processing-time", 0, url=users["worker"]
    ) as worker:
        script.wait_for("queue full, or missing.*; trying again", "stderr")
        worker.wait_for("NOT_FOUND - no queue 'orders'.*; trying again", "stderr")
        declare(broker)
        assert script.wait() == 0, script
        assert worker.wait() == 0, worker
    assert "5 of 5 orders stored" in script.out
    assert len(worker.lines["stderr"]) == 1


def test_queue_that_stays_missing_makes_the_producer_give_up(
    broker: Broker, users: Dict[str, str]
) -> None:
    url = users["publisher"]
    with patched("producer", "producer.PATIENCE = 2", url=url) as script:
        assert script.wait() == 1, script
    given_up = script.lines["stderr"][1]
    assert "Giving up after 2 s" in given_up
    assert "queue full, or missing" in given_up
    assert "0 of 5 orders stored for sure" in script.err
    assert "Traceback" not in script.err
