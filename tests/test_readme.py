"""What the pages show: README.md's demo and docker-compose.yml, server.md's Python."""

import contextlib
import re
import sqlite3
import sys

from rig.node import BOOT
from rig.orders import SAMPLE_IDS, counts, new_order, order_json, put, take_ids
from rig.processes import ROOT, TESTS, Program

COMPOSE = """\
services:
  rabbitmq:
    image: rabbitmq:4.3-management
    hostname: rabbitmq
    volumes:
      - rabbitmq-data:/var/lib/rabbitmq
    ports:
      - "127.0.0.1:5672:5672"
      - "127.0.0.1:15672:15672"
    stop_grace_period: 1m
volumes:
  rabbitmq-data:
"""


def shown(heading):
    """Return the Python that server.md shows under a heading."""
    page = (TESTS / "server.md").read_text("utf-8")
    (code,) = re.findall(rf"\n##+ (?:\d\. )?{heading}\n[^#]*?```python\n(.*?)```", page, re.S)
    return code


def test_once_only_stores_each_result_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(shown("Once only"), page := {})
    for order in [new_order("A"), new_order("A", amount=5), new_order("B", amount=5)]:
        page["process_order"](order)
    with contextlib.closing(sqlite3.connect("shop.db")) as database:
        assert list(database.execute("SELECT * FROM invoices")) == [("A", "1249.5"), ("B", "5")]


def test_publish_is_called_as_shown(url, channel, monkeypatch):
    """It leaves the caller's signals and log levels as they are."""
    monkeypatch.setenv("AMQP_URL", url)
    monkeypatch.delitem(sys.modules, "producer")  # it is imported anew
    with monkeypatch.context() as gone:
        for name in ["signal.signal", "logging.basicConfig", "logging.Logger.setLevel"]:
            gone.delattr(name)
        exec(shown("Publishing"))
    assert take_ids(channel) == ["A-1"]


def test_docker_compose_keeps_orders_and_lets_no_other_computer_in():
    """The file without comments, as it was run. docker-compose 1.29 knows no `name:`."""
    compose = (ROOT / "docker-compose.yml").read_text("utf-8")
    assert re.findall(r"(?m)^ *[^# \n].*?(?= #|$)", compose) == COMPOSE.splitlines()
    assert "\nCOMPOSE_PROJECT_NAME=orders\n" in (ROOT / ".env").read_text("utf-8")


def test_demo_shows_five_orders_and_leaves_a_users_rabbitmq_alone(url, channel):
    """AMQP_URL leads to a RabbitMQ where the user's orders wait."""
    put(channel, order_json("MINE-1"), order_json("MINE-2"))
    with Program(TESTS / "programs/demo.py", url) as demo:
        assert demo.wait(2 * BOOT) == 0
    assert demo.orders("RabbitMQ confirmed") == demo.orders("Processed") == SAMPLE_IDS
    assert counts(channel) == (2, 0)
