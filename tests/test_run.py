"""tests/run demo, as a newcomer runs it, and what an interrupted run leaves behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import psutil
import pytest
from support import ROOT, Broker, Script, free_ports, ready, wait_until

DEMO = [ROOT / "tests" / "demo.py"]


def environment(tmp_path: Path) -> Dict[str, Any]:
    """A temporary folder of the demo's own, to see what it leaves there; no docker on the PATH."""
    (tmp_path / "tmp").mkdir()
    return {"TMPDIR": str(tmp_path / "tmp"), "PATH": "/usr/bin:/bin", "DOCKER_HOST": "unix:///nowhere"}


def brokers_below(folder: Path) -> List[psutil.Process]:
    """Return the processes whose command line names the folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or []):
            found.append(process)
    return found


def test_demo_shows_both_sides_of_five_orders(broker: Broker, channel: Any, tmp_path: Path) -> None:
    nobody = f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/"
    with Script(*DEMO, url=nobody, **environment(tmp_path)) as throwaway, Script(*DEMO, url=broker.url()) as existing:
        assert throwaway.wait() == 0, throwaway
        assert existing.wait() == 0, existing
    assert "starting a RabbitMQ of our own" in throwaway.out
    assert "using the RabbitMQ at 127.0.0.1" in existing.out
    for demo in (throwaway, existing):
        for n in range(1, 6):
            demo.wait_for(rf"^producer \| .* Sent .*ORD-00{n}")
            demo.wait_for(rf"^consumer \| .* Received ORD-00{n}")
            demo.wait_for(rf"^consumer \| .* Processed ORD-00{n}")
        last = re.search(r"done after ([\d.]+) s, the consumer took ([\d.]+) s", demo.lines["stdout"][-1])
        assert last and float(last[1]) < 5 and 10 <= float(last[2]) < 12
    assert list((tmp_path / "tmp").iterdir()) == []
    assert brokers_below(tmp_path) == []


def test_demo_leaves_orders_that_wait_alone(broker: Broker, channel: Any, tmp_path: Path) -> None:
    channel.queue_declare("orders", durable=True)
    channel.basic_publish("", "orders", b"somebody's")
    wait_until(lambda: ready(channel) == 1, "it is there")
    with Script(*DEMO, url=broker.url(), **environment(tmp_path)) as demo:
        demo.wait_for("its queue orders is in use")
        demo.wait_for(r"consumer \| .* Received ORD-001")
        demo.signal(signal.SIGTERM)
        assert demo.wait() == 130
    assert ready(channel) == 1
    assert list((tmp_path / "tmp").iterdir()) == []
    assert brokers_below(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_tests_leave_no_process_and_no_file(tmp_path: Path, number: int) -> None:
    command = ["-m", "pytest", "-c", ROOT / "tests" / "pyproject.toml", "--rootdir", ROOT, ROOT / "tests/test_consumer.py"]
    with Script(*command, "-k", "takes_one_order", **environment(tmp_path)) as run:
        wait_until(lambda: brokers_below(tmp_path), "its node is there")
        run.signal(number)
        run.wait()
    wait_until(lambda: not brokers_below(tmp_path), "its node is gone")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_help_of_both_scripts_tells_how_to_run_them() -> None:
    for name in ("consumer.py", "producer.py"):
        run = subprocess.run([sys.executable, ROOT / name, "--help"], capture_output=True, text=True, env=dict(os.environ))
        assert run.returncode == 0 and f"python3 {name}" in run.stdout
