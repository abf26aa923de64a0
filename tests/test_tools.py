"""docker-compose.yml, and the tools beside the tests."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM
from typing import Any

import psutil
import pytest

from rig.broker import LIMIT, Broker, free_ports, wait_until
from rig.orders import consumers, put, ready
from rig.programs import family
from rig.scripts import CONSUMER, PRODUCER, ROOT, TESTS, Script, nowhere
from soak import Soak, main

# The soak


def test_short_soak_loses_nothing(tmp_path: Path) -> None:
    # By this seed, each of the faults is among the first three.
    with Script(TESTS / "soak.py", 1, "--seed", 2, TMPDIR=str(tmp_path)) as script:
        assert script.wait(180) == 0, script
    assert script.seen(r"^lost: +(\d+)$")[0][0] == "0"
    faults = re.findall(r"(?:killed|stopped): (\d+) times", script.out)
    assert len(faults) == 3 and "0" not in faults
    assert list(tmp_path.iterdir()) == []


def test_soak_notices_a_theft(
    broker: Broker, channel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soak = Soak(broker, tmp_path, seed=0)
    soak.publish("A", 5)
    wait_until(lambda: channel.basic_get("orders", auto_ack=True)[0], "an order to steal")
    soak.add_consumer()
    try:
        counts = soak.end()
    finally:
        soak.clean_up()
    assert (counts["published and confirmed"], counts["lost"]) == (5, 1)
    monkeypatch.setattr("soak.soak", lambda *_: counts)
    monkeypatch.setattr("sys.argv", ["soak.py"])
    assert main() == 1


# The demo

DEMO = TESTS / "demo.py"
STAND_IN = """\
#!/bin/sh
# As docker and docker-compose.
echo "$0 $*" >>"{log}"
[ "$1" != ps ] || echo {up}
"""


def demo(tmp_path: Path, url: str, up: str = "") -> Script:
    """Start the demo beside a Docker engine that only notes how it is called.

    `up`: the container that docker-compose names as running.
    """
    (tmp_path / "bin").mkdir()
    for name in ("docker", "docker-compose"):
        (tmp_path / "bin" / name).write_text(STAND_IN.format(log=tmp_path / "log", up=up))
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    return Script(DEMO, url=url, PATH=path, TMPDIR=str(tmp_path))


def test_demo_shows_both_sides_of_five_orders(broker: Broker, tmp_path: Path) -> None:
    with demo(tmp_path, broker.url()) as script:
        assert script.wait() == 0, script
    assert "using the RabbitMQ at" in script.out
    for number in range(1, 6):
        assert script.seen(rf"^(producer) \| .* Stored ORD-00{number}")
        assert script.seen(rf"^(consumer) \| .* Received ORD-00{number}")
        assert script.seen(rf"^(consumer) \| .* Processed ORD-00{number}")
    last = re.search(r"after ([\d.]+) s, .* took ([\d.]+) s$", script.lines[-1])
    assert last and float(last[1]) < float(last[2]) and 5 < float(last[2]) < 15


def test_demo_leaves_the_users_own_orders_and_broker_alone(
    broker: Broker, channel: Any, tmp_path: Path
) -> None:
    """Nor does it leave anything when it is interrupted; the other tools end the same way."""
    put(channel, b"somebody's")
    with demo(tmp_path, broker.url()) as script:
        script.wait_for("not using a RabbitMQ at .*: its queue orders is in use")
        script.wait_for("starting a RabbitMQ of our own")
        script.wait_for(r"^consumer \| .* Received ORD-001")
        started = family(script.process.pid)[1:]
        script.signal(SIGTERM)
        assert script.wait() == 130
    _, alive = psutil.wait_procs(started, LIMIT)
    assert started and not alive
    assert ready(channel) == 1 and consumers(channel) == 0
    assert not (tmp_path / "log").exists(), "docker-compose was not even asked"
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.parametrize("up", ["", "a-container"])
def test_demo_takes_down_only_what_it_has_brought_up(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, up: str
) -> None:
    """Nothing answers at AMQP_URL; the user's docker-compose is up, elsewhere, or not."""
    monkeypatch.setenv("RABBITMQ_PORT", str(broker.port))
    with demo(tmp_path, nowhere(), up) as script:
        script.wait_for("Received ORD-001")
        script.signal(SIGTERM)
        assert script.wait() == 130
    calls = (tmp_path / "log").read_text()
    assert "compose up -d" in calls and ("compose down" in calls) == (not up)


# docker-compose.yml


@pytest.fixture
def compose() -> Iterator[Any]:
    """Return docker-compose as a function, for a project of the test's own."""
    if not shutil.which("docker") or subprocess.run(("docker", "info")).returncode:
        pytest.skip("no Docker engine runs here")
    old = shutil.which("docker-compose")
    port, page = map(str, free_ports(2))
    environment = {**os.environ, "RABBITMQ_PORT": port, "RABBITMQ_UI_PORT": page}

    def run(*arguments: str) -> str:
        command = ["docker-compose"] if old else ["docker", "compose"]
        command += ["--project-name", f"orders-test-{port}", *arguments]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        return f"amqp://guest:guest@localhost:{port}"

    try:
        yield run
    finally:
        run("down", "--volumes")


def test_five_orders_outlive_down_up_and_kill(compose: Any) -> None:
    url = compose("up", "-d", "--wait")
    with Script(PRODUCER, url=url) as sender:
        assert sender.wait() == 0, sender
    assert "trying again" not in sender.out, "up --wait returns when it is ready"
    compose("down")
    compose("up", "-d", "--wait")
    compose("kill", "--signal", "SIGKILL")
    compose("up", "-d", "--wait")
    with Script(CONSUMER, "--processing-time", 0, url=url) as script:
        script.wait_for("Processed ORD-005")
        script.stop()


# The tests


def test_interrupted_tests_leave_no_process_and_no_file(tmp_path: Path) -> None:
    settings = ("-c", TESTS / "pyproject.toml", "--rootdir", ROOT)
    command = ("-m", "pytest", *settings, "-n", 1, TESTS / "test_faults.py")

    def brokers() -> list[psutil.Process]:
        processes = psutil.process_iter(["cmdline"])
        return [p for p in processes if str(tmp_path) in str(p.info["cmdline"])]

    with Script(*command, TMPDIR=str(tmp_path)) as script:
        wait_until(brokers, "its node is there")
        script.signal(SIGTERM)
        script.wait(2 * LIMIT)
    wait_until(lambda: not brokers(), "its node is gone")
    wait_until(lambda: not list(tmp_path.iterdir()), "its files are gone", 2 * LIMIT)
