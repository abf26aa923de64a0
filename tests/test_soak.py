"""The soak, short: it loses nothing, it would notice if it did, and it cleans up."""

import re
import signal
from pathlib import Path
from typing import Dict

import pika
import psutil
import pytest

from rig.broker import LIMIT, wait_until
from rig.measuring import family
from rig.scripts import TESTS, Script

SOAK = TESTS / "soak.py"


def counts(script: Script) -> Dict[str, int]:
    """Return the numbers that the soak ends with."""
    lines = re.findall(r"^([a-z -]+): +(\d+)$", script.out, re.MULTILINE)
    return {what: int(number) for what, number in lines}


def steal(port: int, wanted: int) -> int:
    """Take orders off the queue behind the consumers' back."""
    parameters = pika.ConnectionParameters("127.0.0.1", port)
    with pika.BlockingConnection(parameters) as connection:
        channel = connection.channel()
        return sum(
            channel.basic_get("orders", auto_ack=True)[0] is not None
            for _ in range(wanted)
        )


@pytest.mark.slow
def test_short_soak_loses_nothing(tmp_path: Path) -> None:
    with Script(SOAK, 6, TMPDIR=str(tmp_path)) as script:
        assert script.wait(180) == 0, script
    print(script.out)
    assert re.match(r"seed \d+, 6 s", script.out)
    found = counts(script)
    assert found["lost"] == 0
    assert (
        found["processed at least once"] + found["dead-lettered"]
        >= found["published and confirmed"]
        > 2_000
    )
    assert found["dead-lettered"] >= 1, "what no consumer can read is published too"
    assert re.search(
        "consumer killed: [1-9].*broker killed: [1-9].*broker stopped: [1-9]",
        script.out,
    )
    assert list(tmp_path.iterdir()) == []


def test_soak_exits_with_1_when_an_order_is_missing(tmp_path: Path) -> None:
    with Script(SOAK, 1, "--calm", "--seed", 1, TMPDIR=str(tmp_path)) as script:
        port = int(script.wait_for(r"^seed 1, 1 s, RabbitMQ on port (\d+)")[1])
        stolen = wait_until(lambda: steal(port, 10), "orders to steal")
        assert script.wait(180) == 1, script
    assert 0 < counts(script)["lost"] <= stolen


def test_interrupted_soak_leaves_nothing_behind(tmp_path: Path) -> None:
    with Script(SOAK, 600, TMPDIR=str(tmp_path)) as script:
        script.wait_for("^seed")
        started = family(script.process.pid)[1:]
        assert len(started) >= 4  # a broker, three consumers
        script.signal(signal.SIGTERM)
        assert script.wait() == 130, script
    _, alive = psutil.wait_procs(started, LIMIT)
    assert alive == []
    assert script.err == ""
    assert list(tmp_path.iterdir()) == []
