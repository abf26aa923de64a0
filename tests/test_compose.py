"""docker-compose.yml: what it says and, where Docker has the image, what it does."""

import os
import re
import shutil
import subprocess
import urllib.request
from typing import Any, Dict, Iterator

import pytest
import yaml

from rig.broker import free_ports
from rig.scripts import CONSUMER, PRODUCER, ROOT, Script

IMAGE = "rabbitmq:4-management"
FILE = ROOT / "docker-compose.yml"


@pytest.fixture
def service() -> Dict[str, Any]:
    """The one service."""
    services = yaml.safe_load(FILE.read_text())["services"]
    assert list(services) == ["rabbitmq"]
    return dict(services["rabbitmq"])


def test_image_has_the_management_page(service: Dict[str, Any]) -> None:
    assert service["image"] == IMAGE


def test_orders_outlive_the_container(service: Dict[str, Any]) -> None:
    """RabbitMQ names its folder after the host: without a fixed name it is lost."""
    assert service["hostname"]
    name, _, target = service["volumes"][0].partition(":")
    assert target == "/var/lib/rabbitmq"
    assert name in yaml.safe_load(FILE.read_text())["volumes"]


def test_published_on_this_machine_only(service: Dict[str, Any]) -> None:
    assert service["ports"] == [
        "127.0.0.1:${RABBITMQ_PORT:-5672}:5672",
        "127.0.0.1:${RABBITMQ_UI_PORT:-15672}:15672",
    ]


def test_comes_back_by_itself_and_tells_when_it_is_ready(
    service: Dict[str, Any],
) -> None:
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"] == [
        "CMD",
        "rabbitmq-diagnostics",
        "-q",
        "check_port_connectivity",
    ]


def test_has_no_obsolete_version_key() -> None:
    assert set(yaml.safe_load(FILE.read_text())) == {"services", "volumes"}


def quietly(*command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in the checkout, its output kept."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def compose() -> Iterator[Any]:
    """Return docker-compose as a function, for a project of the test's own."""
    inspect = ("docker", "image", "inspect", IMAGE)
    if not shutil.which("docker") or quietly(*inspect).returncode:
        pytest.skip(f"no Docker engine that has the image {IMAGE}")
    command = ["docker", "compose"]
    if shutil.which("docker-compose"):
        command = ["docker-compose"]
    port, ui_port = map(str, free_ports(2))

    def run(*arguments: str) -> str:
        done = quietly(
            *(*command, "--project-name", f"orders-test-{port}", *arguments),
            RABBITMQ_PORT=port,
            RABBITMQ_UI_PORT=ui_port,
        )
        assert done.returncode == 0, done
        return done.stdout

    run.url = f"amqp://guest:guest@localhost:{port}/%2F"  # type: ignore[attr-defined]
    run.ui_port = ui_port  # type: ignore[attr-defined]
    try:
        yield run
    finally:
        run("down", "--volumes")


def test_five_orders_outlive_down_up_and_kill(compose: Any) -> None:
    def script(*arguments: object) -> str:
        with Script(*arguments, url=compose.url) as process:
            assert process.wait() == 0, process
        # Ready when `up --wait` returned: nothing had to be waited for.
        assert process.err == ""
        return process.out

    compose("up", "-d", "--wait")
    script(PRODUCER)
    compose("down")
    compose("up", "-d", "--wait")
    compose("kill", "--signal", "SIGKILL")
    compose("up", "-d", "--wait")
    out = script(CONSUMER, "--count", 5, "--processing-time", 0)
    received = re.findall(r"Received (.*?): ", out)
    assert received == [f"ORD-00{number}" for number in range(1, 6)]
    url = f"http://127.0.0.1:{compose.ui_port}/"
    with urllib.request.urlopen(url) as page:
        assert b"RabbitMQ Management" in page.read()
