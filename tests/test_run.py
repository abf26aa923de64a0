"""tests/run demo, as a newcomer runs it, and what an interrupted run leaves behind."""

import re
import signal
from pathlib import Path
from typing import Any, Dict, List

import psutil
import pytest

from rig.broker import Broker, free_ports, wait_until
from rig.orders import ready
from rig.scripts import CONSUMER, PRODUCER, ROOT, TESTS, Script

DEMO = TESTS / "demo.py"


def environment(tmp_path: Path) -> Dict[str, Any]:
    """Return a temporary folder of the demo's own, and a PATH that has no docker."""
    (tmp_path / "tmp").mkdir()
    return {
        "TMPDIR": str(tmp_path / "tmp"),
        "PATH": "/usr/bin:/bin",
        "DOCKER_HOST": "unix:///nowhere",
    }


def brokers_below(folder: Path) -> List[psutil.Process]:
    """Return the processes whose command line names the folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or []):
            found.append(process)
    return found


def test_demo_shows_both_sides_of_five_orders(
    broker: Broker, channel: Any, tmp_path: Path
) -> None:
    nobody = f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/"
    with Script(DEMO, url=nobody, **environment(tmp_path)) as throwaway, Script(
        DEMO, url=broker.url()
    ) as existing:
        assert throwaway.wait() == 0, throwaway
        assert existing.wait() == 0, existing
    assert "starting a RabbitMQ of our own" in throwaway.out
    assert "using the RabbitMQ at 127.0.0.1" in existing.out
    for demo in (throwaway, existing):
        for n in range(1, 6):
            demo.wait_for(rf"^producer \| .* Stored ORD-00{n}")
            demo.wait_for(rf"^consumer \| .* Received ORD-00{n}")
            demo.wait_for(rf"^consumer \| .* Processed ORD-00{n}")
        last = re.search(
            r"done after ([\d.]+) s, the consumer took ([\d.]+) s",
            demo.lines["stdout"][-1],
        )
        assert last and float(last[1]) < 5 and 10 <= float(last[2]) < 12
    assert list((tmp_path / "tmp").iterdir()) == []
    assert brokers_below(tmp_path) == []


def test_demo_leaves_orders_that_wait_alone(
    broker: Broker, channel: Any, tmp_path: Path
) -> None:
    channel.queue_declare("orders", durable=True)
    channel.basic_publish("", "orders", b"somebody's")
    wait_until(lambda: ready(channel) == 1, "it is there")
    with Script(DEMO, url=broker.url(), **environment(tmp_path)) as demo:
        demo.wait_for("its queue orders is in use")
        demo.wait_for(r"consumer \| .* Received ORD-001")
        demo.signal(signal.SIGTERM)
        assert demo.wait() == 130
    assert ready(channel) == 1
    assert list((tmp_path / "tmp").iterdir()) == []
    assert brokers_below(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_tests_leave_no_process_and_no_file(
    tmp_path: Path, number: int
) -> None:
    settings = ("-c", TESTS / "pyproject.toml", "--rootdir", ROOT)
    files = [TESTS / f"test_{script}.py" for script in ("consumer", "producer")]
    command = ("-m", "pytest", *settings, "-n", 2, "--dist", "loadfile", *files)
    with Script(*command, **environment(tmp_path)) as run:
        wait_until(lambda: brokers_below(tmp_path), "its node is there")
        run.signal(number)
        run.wait()
    wait_until(lambda: not brokers_below(tmp_path), "its node is gone")
    wait_until(lambda: not list((tmp_path / "tmp").iterdir()), "its files are gone")


@pytest.mark.parametrize(
    "script, taken",
    [(CONSUMER, ["--processing-time SECONDS", "--count ORDERS"]), (PRODUCER, ["FILE"])],
)
def test_help_of_both_scripts_tells_how_to_run_them(
    script: Path, taken: List[str]
) -> None:
    with Script(script, "--help") as run:
        assert run.wait() == 0
    assert run.lines["stdout"][0].startswith(f"usage: {script.name} ")
    assert f"python3 {script.name}" in run.out and "AMQP_URL" in run.out
    assert all(argument in run.out for argument in taken)
    assert run.err == ""
