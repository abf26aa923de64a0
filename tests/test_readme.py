"""What README.md shows: the code under "Once only", docker-compose.yml, the demo."""

import contextlib
import re
import sqlite3
from pathlib import Path

import pytest
import yaml
from pika.adapters.blocking_connection import BlockingChannel as Channel

from rig.node import LIMIT
from rig.orders import SAMPLE_IDS, counts, order_json, put, put_orders
from rig.processes import ROOT, TESTS, Program, run

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_once_only_stores_each_result_once(url: str, channel: Channel, tmp_path: Path) -> None:
    shown = re.search(r"### Once only.*?```python\n(.*?)```", README, re.S)
    assert shown
    code = shown[1].replace("shop.db", f"{tmp_path}/shop.db")
    script = tmp_path / "once_only.py"
    script.write_text(
        f"import consumer\n{code}\nconsumer.process_order = process_order\nconsumer.main()\n"
    )
    put(channel, order_json("A"), order_json("A", amount=5), order_json("B"))
    run(script, url, until="Processed 'B'")
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        invoices = list(database.execute("SELECT * FROM invoices"))
    assert invoices == [("A", "1249.5"), ("B", "1249.5")]


def test_docker_compose_keeps_the_orders_and_lets_no_other_computer_in() -> None:
    """RabbitMQ's folder is named after the host. Docker's image lets guest in from anywhere."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    rabbitmq = compose["services"]["rabbitmq"]
    assert rabbitmq["image"].endswith("-management"), "with the web page"
    assert rabbitmq["hostname"] == "rabbitmq"
    assert rabbitmq["volumes"] == ["rabbitmq-data:/var/lib/rabbitmq"]
    assert rabbitmq["ports"] == ["127.0.0.1:5672:5672", "127.0.0.1:15672:15672"]


@pytest.mark.xdist_group("demo")
def test_demo_leaves_a_users_rabbitmq_alone(url: str, channel: Channel) -> None:
    """Where orders wait, and AMQP_URL leads to it."""
    put_orders(channel, "MINE-1", "MINE-2")
    with Program(TESTS / "programs/demo.py", url) as demo:
        assert demo.wait(3 * LIMIT) == 0
    assert (demo.orders("Stored"), demo.orders("Processed")) == (SAMPLE_IDS, SAMPLE_IDS)
    assert counts(channel) == (2, 0)
