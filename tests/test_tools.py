"""The tools beside the tests."""

import contextlib
import re
from pathlib import Path
from signal import SIGTERM
from typing import Any

import psutil
import pytest

from rig.broker import LIMIT, Broker, wait_until
from rig.scripts import ROOT, TESTS, Script, telling_consumer
from soak import Soak


def test_short_soak_loses_nothing(tmp_path: Path) -> None:
    with Script(TESTS / "soak.py", 15, TMPDIR=tmp_path) as script:
        assert script.wait(200) == 0, script
    found = {
        what: int(number) for what, number in re.findall("(?m)^([a-z ]+): +([0-9]+)$", script.out)
    }
    brokers = found["broker killed"] + found["broker stopped"]
    assert found["published and confirmed"] > 500 and brokers >= 2, script
    # A consumer that is killed leaves one order to do twice; a broker takes three consumers'
    # orders back, and of each of two producers it may store one again.
    assert found["processed more than once"] <= found["consumer killed"] + 5 * brokers, script
    assert found["lost"] == 0 and list(tmp_path.iterdir()) == []


def test_soak_notices_a_theft(broker: Broker, channel: Any) -> None:
    with contextlib.closing(Soak(broker)) as soak:
        soak.publish(5)
        soak.collect_stored()
        wait_until(lambda: channel.basic_get("orders", auto_ack=True)[0], "an order to steal")
        soak.consumers.append(telling_consumer(broker))
        counts = soak.end()
    assert (counts["published and confirmed"], counts["lost"]) == (5, 1)


def alive(folder: Path) -> list[psutil.Process]:
    """Return the processes that were started with this folder for temporary files."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended, or is another user's
            if process.environ().get("TMPDIR") == str(folder):
                found.append(process)
    return found


def test_demo_shows_both_sides_of_five_orders(broker: Broker) -> None:
    with Script(TESTS / "demo.py", AMQP_URL=broker.url(), PROCESSING_TIME=0.1) as script:
        assert script.wait() == 0, script
    ids = [f"ORD-00{number}" for number in range(1, 6)]
    for event in ("producer . .* Stored", "consumer . .* Received", "consumer . .* Processed"):
        assert script.texts(f"^{event} '(.*?)'") == ids, script
    assert re.search(r"producer took [\d.]+ s, the consumer [\d.]+ s$", script.lines[-1])


SETTINGS = ("-c", TESTS / "pyproject.toml", "--rootdir", ROOT, "-n", 1)


@pytest.mark.parametrize(
    "command, status",
    [((TESTS / "demo.py",), 130), (("-m", "pytest", *SETTINGS, __file__, "-k", "theft"), 2)],
    ids=["demo", "tests"],
)
def test_interrupted_it_leaves_no_process_and_no_file(
    tmp_path: Path, command: tuple[object, ...], status: int
) -> None:
    with Script(*command, TMPDIR=tmp_path) as script:
        wait_until(lambda: [p for p in alive(tmp_path) if p.name() == "beam.smp"], "its node")
        script.signal(SIGTERM)
        assert script.wait(2 * LIMIT) == status
    wait_until(lambda: not alive(tmp_path), "its processes are gone")
    assert list(tmp_path.iterdir()) == []
