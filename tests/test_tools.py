"""The tools beside the tests."""

import contextlib
import re
from functools import partial
from pathlib import Path
from signal import SIGTERM

import psutil
import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

from benchmark import orders_per_second, start_loop, start_ours
from rig.changes import no_pause, work_fails
from rig.node import LIMIT, Node, wait_until
from rig.orders import put_orders, ready_count
from rig.scripts import ROOT, TESTS, Program, start_consumer
from soak import Soak


def test_short_soak_loses_nothing(tmp_path: Path) -> None:
    with Program(TESTS / "soak.py", 15, environment={"TMPDIR": str(tmp_path)}) as program:
        assert program.wait(3 * LIMIT) == 0
    rows = re.findall("(?m)^([a-z -]+): +([0-9]+)$", program.out)
    found = {what: int(number) for what, number in rows}
    assert found["published and confirmed"] > 500
    assert found["lost"] == found["dead-lettered"] == 0
    # A consumer that is killed leaves one order to do twice; RabbitMQ takes three consumers'
    # orders back, and of each of two producers it may store one again.
    outages = found["rabbitmq killed"] + found["rabbitmq stopped"]
    assert outages >= 2
    assert found["processed more than once"] <= found["consumer killed"] + 5 * outages
    assert list(tmp_path.iterdir()) == []


def test_soak_notices_a_theft(node: Node, channel: Channel) -> None:
    with contextlib.closing(Soak(node)) as soak:
        soak.publish(5)
        soak.collect_stored()
        wait_until(lambda: channel.basic_get("orders", auto_ack=True)[0], "an order to steal")
        soak.start_consumer()
        counts = soak.end()
    assert (counts["published and confirmed"], counts["lost"]) == (5, 1)


def test_soak_notices_a_dead_letter(node: Node, channel: Channel) -> None:
    put_orders(channel, "FAILS")
    with start_consumer(node, no_pause, partial(work_fails, times=99)) as consumer:
        wait_until(lambda: ready_count(channel, "orders.dead") == 1, "a dead letter")
        consumer.stop()
    with contextlib.closing(Soak(node)) as soak:
        soak.start_consumer()
        assert soak.end()["dead-lettered"] == 1


def test_consumer_is_not_far_slower_than_a_bare_loop(node: Node) -> None:
    """Without work. `tests/run benchmark` measures more closely."""
    loop = orders_per_second(start_loop, "Processed", node, size=1_000)
    ours = orders_per_second(start_ours, "Processed", node, size=1_000)
    assert ours > 0.25 * loop


def test_demo_leaves_a_users_rabbitmq_alone(node: Node, channel: Channel) -> None:
    """Where orders wait, and AMQP_URL leads to it."""
    put_orders(channel, "MINE-1", "MINE-2")
    with Program(TESTS / "demo.py", environment={"AMQP_URL": node.url()}) as demo:
        assert demo.wait() == 0
    order_ids = [f"ORD-00{number}" for number in range(1, 6)]
    for event in ("producer . .* Stored", "consumer . .* Received", "consumer . .* Processed"):
        assert demo.texts(f"^{event} '(.*?)'") == order_ids
    assert re.search(r"producer took [\d.]+ s, the consumer [\d.]+ s$", demo.lines[-1])
    assert ready_count(channel) == 2


def alive(folder: Path) -> list[str]:
    """Return the names of the processes with this folder for temporary files."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended, or is another user's
            if process.environ().get("TMPDIR") == str(folder):
                found.append(process.name())
    return found


SETTINGS = ("-c", TESTS / "pyproject.toml", "--rootdir", ROOT, "-n", 1)


@pytest.mark.parametrize(
    "command, status",
    [((TESTS / "demo.py",), 130), (("-m", "pytest", *SETTINGS, __file__, "-k", "theft"), 2)],
    ids=["demo", "tests"],
)
def test_interrupted_tool_leaves_no_process_and_no_file(
    tmp_path: Path, command: tuple[object, ...], status: int
) -> None:
    with Program(*command, environment={"TMPDIR": str(tmp_path)}) as program:
        wait_until(lambda: "beam.smp" in alive(tmp_path), "its node")
        program.signal(SIGTERM)
        assert program.wait(2 * LIMIT) == status
    wait_until(lambda: not alive(tmp_path), "its processes are gone")
    assert list(tmp_path.iterdir()) == []
