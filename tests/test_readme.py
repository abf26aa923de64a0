"""What README.md shows: the code under "Once only", and the demo (server: test_server.py)."""

import contextlib
import re
import sqlite3
from pathlib import Path

from pika.adapters.blocking_connection import BlockingChannel as Channel

from rig.node import LIMIT, Node
from rig.orders import SAMPLE_IDS, put_orders, ready_count
from rig.processes import ROOT, TESTS, Program

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_once_only_stores_each_result_once(node: Node, channel: Channel, tmp_path: Path) -> None:
    shown = re.search(r"### Once only.*?```python\n(.*?)```", README, re.S)
    assert shown
    code = shown[1].replace("/var/lib/shop/shop.db", f"{tmp_path}/shop.db")
    code += "\n\nimport consumer\n\nconsumer.process_order = process_order\nconsumer.main()\n"
    script = tmp_path / "once_only.py"
    script.write_text(code, encoding="utf-8")
    put_orders(channel, "A", "A", "B")
    with Program(script, amqp_url=node.url()) as consumer:
        consumer.wait_for("Processed 'B'")
        consumer.stop()
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        assert list(database.execute("SELECT * FROM invoices")) == [
            ("A", "1249.5"),
            ("B", "1249.5"),
        ]


def test_demo_leaves_a_users_rabbitmq_alone(node: Node, channel: Channel) -> None:
    """Where orders wait, and AMQP_URL leads to it."""
    put_orders(channel, "MINE-1", "MINE-2")
    with Program(TESTS / "programs/demo.py", amqp_url=node.url()) as demo:
        assert demo.wait(3 * LIMIT) == 0
    assert (demo.stored, demo.processed) == (SAMPLE_IDS, SAMPLE_IDS)
    assert ready_count(channel) == 2
