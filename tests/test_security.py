"""Secrets stay secret, a stranger's certificate is refused, and no message steers a
terminal.
"""

import json
import unicodedata
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pika
import psutil  # type: ignore[import-untyped, unused-ignore]
import pytest
import trustme

from rig.broker import Broker, free_ports
from rig.orders import an_order, write_orders
from rig.scripts import CONSUMER, PRODUCER, Script, consumer, producer

SECRET = "s3cret+p4ss/w0rd"
ENCODED = "s3cret%2Bp4ss%2Fw0rd"
BOTH = pytest.mark.parametrize(
    "script", [PRODUCER, CONSUMER], ids=["producer", "consumer"]
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Tuple[trustme.CA, Path]:
    """A test authority, and the file that makes the scripts trust it."""
    ca, path = trustme.CA(), tmp_path_factory.mktemp("authority") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return ca, path


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, authority: Tuple[trustme.CA, Path]
) -> Iterator["GuardedBroker"]:
    """A node with TLS, and a user whose password is the secret."""
    broker = GuardedBroker(tmp_path_factory.mktemp("guarded"), *authority)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


class GuardedBroker(Broker):
    """A node that shows a certificate for "localhost", and lets in one user with a
    password.
    """

    def __init__(self, folder: Path, ca: trustme.CA, trusted: Path) -> None:
        self.tls_port, self.trusted = free_ports(1)[0], trusted
        certificate = ca.issue_cert("localhost")
        certificate.private_key_and_cert_chain_pem.write_to_path(
            str(folder / "server.pem")
        )
        settings = {
            "default_user": "shop",
            "default_pass": SECRET,
            "listeners.ssl.1": f"127.0.0.1:{self.tls_port}",
            "ssl_options.cacertfile": trusted,
            "ssl_options.certfile": folder / "server.pem",
            "ssl_options.keyfile": folder / "server.pem",
        }
        super().__init__(
            folder, "".join(f"{key} = {value}\n" for key, value in settings.items())
        )

    def secure_url(self, host: str = "localhost") -> str:
        return f"amqps://shop:{ENCODED}@{host}:{self.tls_port}/%2F"


def arguments(script: Path) -> List[Any]:
    """Return what lets the script end by itself once it works."""
    return [
        script,
        *(["--processing-time", 0, "--count", 5] if script == CONSUMER else []),
    ]


def assert_no_secret(script: Script) -> None:
    for form in ("s3cret", "p4ss", "w0rd"):
        assert form not in f"{script.out}\n{script.err}"


def test_password_is_in_no_output_and_no_argument(guarded: GuardedBroker) -> None:
    url = guarded.url("shop", ENCODED)
    with Script(PRODUCER, url=url) as publisher:
        assert publisher.wait() == 0, publisher
    with Script(CONSUMER, "--processing-time", 600, url=url) as worker:
        worker.wait_for("Received")
        assert "s3cret" not in " ".join(psutil.Process(worker.process.pid).cmdline())
    with Script(
        CONSUMER, url=f"amqp://shop:{ENCODED}@127.0.0.1:{free_ports(1)[0]}/%2F"
    ) as waiting:
        waiting.wait_for("trying again", "stderr")
    for script in (publisher, worker, waiting):
        assert_no_secret(script)


@BOTH
@pytest.mark.parametrize(
    ("url", "status", "says"),
    [
        (
            "amqp://shop:wrong-{secret}@127.0.0.1:{port}/%2F",
            1,
            "Check the user, the password",
        ),
        ("amqp://shop:{secret}@127.0.0.1:{port}/nowhere", 1, "Check the vhost"),
        ("amqp://shop:{secret}@127.0.0.1:{port}/%2F?heartbeat=often", 2, "look like"),
        ("amqp://shop:{secret}@127.0.0.1:port/%2F", 2, "must look like"),
        ("http://shop:{secret}@127.0.0.1:{port}/%2F", 2, "must look like"),
        ("shop:{secret}@127.0.0.1:{port}/%2F", 2, "must look like"),
        ("amqp:/shop:{secret}@127.0.0.1", 2, "must look like"),
        ("amqp://shop:[{secret}@127.0.0.1/%2F", 2, "must look like"),
        ("amqp://shop:s3cret/p4ss@w0rd@127.0.0.1:{port}/%2F", 2, "must look like"),
        ("amqp://localhost,http://shop:{secret}@127.0.0.1", 2, "must look like"),
    ],
)
def test_password_is_not_told_when_something_is_wrong(
    guarded: GuardedBroker, script: Path, url: str, status: int, says: str
) -> None:
    with Script(
        *arguments(script), url=url.format(secret=ENCODED, port=guarded.port)
    ) as run:
        run.wait_for(says, "stderr")
        assert run.wait() == status, run
    assert_no_secret(run)


def test_scripts_work_over_tls(guarded: GuardedBroker) -> None:
    url, trusted = guarded.secure_url(), str(guarded.trusted)
    with Script(*arguments(PRODUCER), url=url, SSL_CERT_FILE=trusted) as publisher:
        assert publisher.wait() == 0, publisher
    with Script(*arguments(CONSUMER), url=url, SSL_CERT_FILE=trusted) as worker:
        assert worker.wait() == 0, worker
    assert "5 of 5 orders stored" in publisher.out
    assert "(5 orders in " in worker.out
    assert publisher.err == worker.err == ""


@BOTH
@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1"], ids=["of a stranger", "for another name"]
)
def test_certificate_that_does_not_verify_ends_the_script(
    guarded: GuardedBroker, tmp_path: Path, script: Path, host: str
) -> None:
    trusted = guarded.trusted
    if host == "localhost":
        trusted = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(str(trusted))
    with Script(
        *arguments(script), url=guarded.secure_url(host), SSL_CERT_FILE=str(trusted)
    ) as run:
        assert run.wait() == 1, run
    assert "CERTIFICATE_VERIFY_FAILED" in run.err
    assert run.err.endswith("\nTo trust it: export SSL_CERT_FILE=ca.pem")
    assert "Traceback" not in run.err
    assert run.out == ""
    assert_no_secret(run)


# What a message can do to a terminal

CRAFTED = [
    "\x1b[2J\x1b[H",  # clears the screen
    "\x1b]0;title\x07",
    "\x9b31m",  # the same as one character
    "A\n00:00:00 Processed FORGED",
    "A\r00:00:00 Processed FORGED",
    "A\x0b\x0c\x1c\x85\u2028\u2029Z",
    "\u202eDEGROF\u202c",  # right to left
    "\u2067A\u2069\u061c\u200f",
    "A\x00\x08\x08Z",
    "A\u200b\ufeff\U000e0041Z",  # not to be seen
]


def assert_harmless(script: Script, lines: List[str]) -> None:
    for line in lines:
        assert line[2] + line[5] == "::", script
        assert not [
            c for c in line if unicodedata.category(c)[0] in "CZ" and c != " "
        ], ascii(line)
    assert not [
        line for line in lines if line.split(" ")[1:3] == ["Processed", "FORGED"]
    ]


def test_crafted_order_cannot_forge_a_line_nor_steer_the_terminal(
    broker: Broker, channel: Any
) -> None:
    with consumer(broker, "--processing-time", 0) as worker:
        worker.wait_for("Waiting for orders")
        for text in CRAFTED:
            for field in ("order_id", "customer", "status"):
                body = json.dumps({**an_order("A"), field: text})
                channel.basic_publish("", "orders", body)
            properties = pika.BasicProperties(message_id=text)
            channel.basic_publish(
                "", "orders", f'{{"{text}": {text}'.encode(), properties
            )
        channel.basic_publish("", "orders", json.dumps(an_order("LAST")))
        worker.wait_for("Processed LAST")
        worker.signal()
        assert worker.wait() == 0
    out, err = worker.lines["stdout"], worker.lines["stderr"]
    assert len(out) == 2 * (2 * len(CRAFTED) + 1) + 2  # Waiting and Stopped
    assert len(err) == 2 * len(CRAFTED), "an order_id must be printable"
    assert_harmless(worker, out + err)
    assert out[1].endswith(r"Received A: '\x1b[2J\x1b[H', 1249.5")


def test_crafted_file_cannot_steer_the_producers_terminal(
    broker: Broker, tmp_path: Path
) -> None:
    for text in CRAFTED:
        path = write_orders(tmp_path / "orders", [text])
        with producer(broker, path) as script:
            assert script.wait() == 2, script
        assert script.out == ""
        assert script.err == f"{path}:1: order_id must be printable"
