"""What the README shows and says, taken out of it and tried (its server: test_server.py)."""

import contextlib
import re
import sqlite3
from functools import partial
from pathlib import Path

from pika.adapters.blocking_connection import BlockingChannel as Channel

from programs.report import in_russian
from rig.changes import work_is_code
from rig.node import Node, wait_until
from rig.orders import drain, ids, order_json, put, put_orders, ready_count
from rig.scripts import ROOT, Program, run_consumer, start_consumer

README = (ROOT / "README.md").read_text(encoding="utf-8")
ENGLISH, RUSSIAN = README.split("\n## На русском\n")
RESULTS = (ROOT / "tests/README.md").read_text(encoding="utf-8")


def snippet(pattern: str) -> str:
    """Return what the group in the pattern finds, over any lines."""
    found = re.search(pattern, ENGLISH, re.S)
    assert found, pattern
    return found[1]


def tables(text: str) -> list[str]:
    """Return the tables of a text in Markdown."""
    return re.findall(r"(?m)(?:^\|.*\n)+", text)


def test_both_languages_have_the_same_tables_and_picture() -> None:
    analysis = ENGLISH.partition("\n## Analysis\n")[2].partition("\n## ")[0]
    assert [in_russian(table) for table in tables(analysis)] == tables(RUSSIAN)
    assert len(tables(RUSSIAN)) == 3
    picture = snippet(r"(```\nt, s .*?```\n)")
    assert picture in RUSSIAN


def test_figures_of_the_text_are_those_of_the_tables() -> None:
    """Of the soak; in Russian with a space for the comma."""
    rows = dict(re.findall(r"(?m)^\| ([^|]+) \| ([\d,]+) \|", RESULTS))
    broken = int(rows["RabbitMQ killed"]) + int(rows["RabbitMQ stopped"])
    stored, twice = rows["orders stored"], rows["processed more than once"]
    assert f"killed consumers (whose work was empty) {rows['consumers killed']} times" in ENGLISH
    assert f"killed or stopped RabbitMQ {broken} times" in ENGLISH
    assert f"none of {stored} stored orders was lost, {twice} were processed" in ENGLISH
    assert f"убивали {rows['consumers killed']} раз" in RUSSIAN
    assert f"останавливали {broken} раз" in RUSSIAN
    spaced = stored.replace(",", "\u00a0")
    assert f"из {spaced} сохранённых заказов не потерян ни один, {twice} обработан" in RUSSIAN
    assert rows["lost"] == rows["in orders.dead"] == "0"


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


def test_once_only_brings_each_result_once(node: Node, channel: Channel, tmp_path: Path) -> None:
    """Each order is there three times, and three consumers are killed."""
    code = snippet("### Once only.*?```python\n(.*?)```").replace("shop.db", f"{tmp_path}/shop.db")
    process_order = partial(work_is_code, code=code)
    orders = ids("A", 100)
    for _ in range(3):
        put(channel, *map(order_json, orders))
        with start_consumer(node, process_order) as victim:
            victim.wait_for("Received", times=10)
            victim.kill()
    put_orders(channel, "LAST")
    run_consumer(node, process_order, until="Processed 'LAST'")
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        invoices = [order_id for (order_id,) in database.execute("SELECT order_id FROM invoices")]
    assert sorted(invoices) == [*orders, "LAST"]
    assert not drain(channel)


def test_dead_letters_are_sent_again(node: Node, channel: Channel) -> None:
    put_orders(channel)
    orders = ids("A", 3)
    for order_id in orders:
        channel.basic_publish("", "orders.dead", order_json(order_id))
    wait_until(lambda: ready_count(channel, "orders.dead") == 3, "three dead letters")
    code = snippet("Send all dead letters.*?python3 -c '(.*?)'\n```")
    with Program("-c", code, environment={"AMQP_URL": node.url()}) as program:
        assert program.wait() == 0
    assert drain(channel, "orders") == dict.fromkeys(orders, 1)
    assert not drain(channel, "orders.dead")
