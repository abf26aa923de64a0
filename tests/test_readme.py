"""What the README shows and says, taken out of it and tried."""

import contextlib
import random
import re
import shlex
import sqlite3
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

from rig.changes import no_pause, work_fails, work_is_code
from rig.node import Node, wait_until
from rig.orders import RIGHTS, drain, ids, order_json, put, put_orders, ready_count
from rig.scripts import ROOT, Program, start_consumer

README = (ROOT / "README.md").read_text(encoding="utf-8")


def snippet(pattern: str) -> str:
    """Return what the group in the pattern finds, over any lines."""
    found = re.search(pattern, README, re.S)
    assert found, pattern
    return found[1]


def tables(text: str) -> list[list[str]]:
    """Return the rows of each table, without its head."""
    return [table.splitlines()[2:] for table in re.findall(r"(?m)(?:^\|.*\n)+", text)]


def figures(table: list[str]) -> list[list[str]]:
    """Return each row's numbers, and the units of time behind them."""
    return [re.findall(r"\d+(?:\.\d+)?|(?<=[\d)]\s)m?s\b", row) for row in table]


def test_both_languages_have_the_same_figures() -> None:
    english, russian = README.split("\n## На русском\n")
    analysis = english.partition("\n## Analysis\n")[2].partition("\n## ")[0]
    ours = [figures(table) for table in tables(analysis)]
    to_english = str.maketrans({",": ".", "м": "m", "с": "s", "\u00a0": " "})
    theirs = [figures(table) for table in tables(russian.translate(to_english))]
    assert len(ours) == 4
    assert ours == theirs


def test_links_lead_somewhere() -> None:
    """To a file, or to a heading, as GitHub names it."""
    for path in (ROOT / "README.md", ROOT / "tests/README.md"):
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text("utf-8")):
            file, _, anchor = link.partition("#")
            target = path.parent / file if file else path
            assert target.exists(), link
            if anchor:
                assert anchor in anchors(target), link


def anchors(path: Path) -> set[str]:
    """Return the anchors of a Markdown file's headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", path.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_documented_rights_are_the_ones_that_are_tested() -> None:
    rights = ", ".join(f"{right} `{pattern}`" for right, pattern in RIGHTS.items())
    assert rights in " ".join(README.split())


def test_once_only_brings_each_result_once(node: Node, channel: Channel, tmp_path: Path) -> None:
    """Each order is there six times, and six consumers are killed."""
    code = snippet("### Once only.*?```python\n(.*?)```").replace("shop.db", f"{tmp_path}/shop.db")
    process_order = partial(work_is_code, code=code)
    orders = ids("A", 100)
    for _ in range(6):
        put(channel, *(order_json(order_id, customer=order_id) for order_id in orders))
        with start_consumer(node, process_order) as victim:
            victim.wait_for("Received", times=random.randint(5, 20))
            time.sleep(random.uniform(0, 0.02))
            victim.process.kill()
    with start_consumer(node, process_order) as last:
        wait_until(lambda: ready_count(channel) == 0, "an empty queue")
        last.wait_for("Waiting for orders")
        last.stop()
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        invoices = [customer for (customer,) in database.execute("SELECT customer FROM invoices")]
    assert sorted(invoices) == orders
    assert not drain(channel)


@pytest.fixture
def version(node: Node) -> tuple[int, ...]:
    """RabbitMQ's version."""
    return tuple(map(int, re.findall("[0-9]+", node.rabbitmqctl("version"))[:3]))


def test_policy_lets_others_go_on_while_failed_work_waits(
    node: Node, channel: Channel, version: tuple[int, ...]
) -> None:
    """RabbitMQ knows it from 4.3.1 on. An older one says that it does not know these keys."""
    policy = shlex.split(snippet(r"rabbitmqctl (set_policy retry [^\n]*)"))
    put_orders(channel, "FAILS", "B")
    if version < (4, 3, 1):
        with pytest.raises(subprocess.CalledProcessError) as refused:
            node.rabbitmqctl(*policy)
        assert "not recognised" in refused.value.stderr
        assert "delayed-retry" in refused.value.stderr
        return
    try:
        node.rabbitmqctl(*policy)
        with start_consumer(node, no_pause, partial(work_fails, times=3)) as consumer:
            consumer.wait_for("Processed 'FAILS'")
            consumer.stop()
    finally:
        node.rabbitmqctl("clear_policy", "retry")
    assert consumer.processed == ["B", "FAILS"]
    tries = [moment for _, moment in consumer.seen("(Received 'FAILS')")]
    assert len(tries) == 4
    for number in (1, 2, 3):
        wait = tries[number] - tries[number - 1]
        assert number < wait < number + 2.5


def test_dead_letters_are_republished(node: Node, channel: Channel) -> None:
    put(channel)
    orders = ids("A", 3)
    for order_id in orders:
        channel.basic_publish("", "orders.dead", order_json(order_id))
    wait_until(lambda: ready_count(channel, "orders.dead") == 3, "three dead letters")
    code = snippet("### Republish dead letters.*?python3 -c '(.*?)'\n```")
    with Program("-c", code, environment={"AMQP_URL": node.url()}) as program:
        assert program.wait() == 0
    assert drain(channel, "orders") == dict.fromkeys(orders, 1)
    assert not drain(channel, "orders.dead")
