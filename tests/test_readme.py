"""What README.md shows: the code under "Once only", docker-compose.yml, the demo."""

import contextlib
import os
import re
import sqlite3
import subprocess
import sys

import pytest

from rig.orders import SAMPLE_IDS, counts, order_json, put
from rig.processes import ROOT, TESTS, consume

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_once_only_stores_each_result_once(url, channel, tmp_path):
    shown = re.search(r"### Once only.*?```python\n(.*?)```", README, re.S)
    assert shown
    code = shown[1].replace("shop.db", f"{tmp_path}/shop.db")
    script = tmp_path / "once_only.py"
    script.write_text(
        f"import consumer\n{code}\nconsumer.process_order = process_order\nconsumer.main()\n"
    )
    put(channel, order_json("A"), order_json("A", amount=5), order_json("B"))
    consume(script, url, until="Processed 'B'")
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        invoices = list(database.execute("SELECT * FROM invoices"))
    assert invoices == [("A", "1249.5"), ("B", "1249.5")]


def test_docker_compose_keeps_the_orders_and_lets_no_other_computer_in():
    """RabbitMQ's folder is named after the host. Docker's image lets guest in from anywhere."""
    lines = [line.strip() for line in (ROOT / "docker-compose.yml").read_text().splitlines()]
    assert {"hostname: rabbitmq", "- rabbitmq-data:/var/lib/rabbitmq"} <= {*lines}
    ports = [line for line in lines if "5672:" in line]
    assert ports == ['- "127.0.0.1:5672:5672"', '- "127.0.0.1:15672:15672"']


@pytest.mark.xdist_group("demo")
def test_demo_shows_five_orders_and_leaves_a_users_rabbitmq_alone(url, channel):
    """Where orders wait, and AMQP_URL leads to it."""
    put(channel, order_json("MINE-1"), order_json("MINE-2"))
    command = [sys.executable, f"{TESTS}/programs/demo.py"]
    environment = {**os.environ, "AMQP_URL": url}
    said = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=100
    )
    for order_id in SAMPLE_IDS:
        assert f"Stored {order_id}" in said.stdout and f"Processed '{order_id}'" in said.stdout
    assert counts(channel) == (2, 0)
