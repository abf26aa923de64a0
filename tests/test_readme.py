"""What the pages show: README.md's demo and docker-compose.yml, server.md's Python."""

import contextlib
import re
import shlex
import sqlite3
import subprocess
import sys

import yaml

from rig.orders import SAMPLE_IDS, counts, order_json, put, take_ids
from rig.processes import ROOT, TESTS, Program, run_consumer, run_producer
from rig.waiting import LIMIT

PAGE = (TESTS / "server.md").read_text(encoding="utf-8")


def shown(heading):
    """Return the Python that server.md shows under a heading."""
    (code,) = re.findall(rf"\n## {heading}\n[^#]*?```python\n(.*?)```", PAGE, re.S)
    return code


def test_once_only_stores_each_result_once(url, channel, tmp_path):
    code = shown("Once only").replace("shop.db", f"{tmp_path}/shop.db")
    script = tmp_path / "once_only.py"
    run = "consumer.process_order = process_order\nconsumer.main()\n"
    script.write_text(f"import consumer\n{code}\n{run}")
    put(channel, order_json("A"), order_json("A", amount=5), order_json("B", amount=5))
    assert run_consumer(script, url, until="Processed 'B'").orders("Processed") == ["A", "A", "B"]
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        invoices = list(database.execute("SELECT * FROM invoices"))
    assert invoices == [("A", "1249.5"), ("B", "5")]


def test_publish_is_called_as_shown(url, channel, tmp_path):
    example = tmp_path / "example.py"
    example.write_text(shown("Publishing"))
    assert run_producer(TESTS / "changed/publisher.py", url, example).log == ""
    assert take_ids(channel) == ["A-1"]


def test_work_is_tried_as_shown():
    (command,) = re.findall('(?m)^python3 (-c "import consumer.*")$', PAGE)
    subprocess.run([sys.executable, *shlex.split(command)], cwd=ROOT, check=True, timeout=LIMIT)


def test_docker_compose_keeps_the_orders_and_lets_no_other_computer_in():
    """RabbitMQ's folder is named after the host. Docker's image lets guest in from anywhere."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    (service,) = compose["services"].values()
    assert service["image"] == "rabbitmq:4.3-management"
    assert service["hostname"] == "rabbitmq", "another one would not find the orders"
    assert service["volumes"] == ["rabbitmq-data:/var/lib/rabbitmq"]
    assert "rabbitmq-data" in compose["volumes"]
    assert service["ports"] == ["127.0.0.1:5672:5672", "127.0.0.1:15672:15672"]
    assert "restart" not in service, "a forgotten lab would come back at each boot"


def test_demo_shows_five_orders_and_leaves_a_users_rabbitmq_alone(url, channel):
    """AMQP_URL leads to a RabbitMQ where the user's orders wait."""
    put(channel, order_json("MINE-1"), order_json("MINE-2"))
    with Program(TESTS / "programs/demo.py", url) as demo:
        assert demo.wait(5 * LIMIT) == 0
    assert demo.orders("Stored") == demo.orders("Processed") == SAMPLE_IDS
    assert counts(channel) == (2, 0)
