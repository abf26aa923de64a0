"""What both scripts have to do with a broker, a user and each other."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from conftest import running
from rig.broker import Broker, free_ports, wait_until
from rig.network import Network
from rig.scripts import BOTH, CONSUMER, PRODUCER, Script, changed, consumer, nowhere, troubles

EACH = pytest.mark.parametrize("path", BOTH, ids=lambda path: path.stem)


def works(path: Path, **options: Any) -> Script:
    """Let a script do its work: publish five orders, or process them."""
    seconds = ["--processing-time", 0] if path == CONSUMER else []
    with Script(path, *seconds, **options) as script:
        if path == CONSUMER:
            script.wait_for("Processed ORD-005")
            script.stop()
        assert script.wait() == 0, script
    return script


# Their text


def test_what_both_need_is_the_same_word_for_word() -> None:
    ours, theirs = (
        re.search(r"\n# pika 1\.5.*\ndef connect.*?\n\n\n", path.read_text(), re.S) for path in BOTH
    )
    assert ours and theirs and ours[0] == theirs[0]
    shared = {"QUEUE", "QUEUES", "PERMANENT", "parse_order", "amqp_nodes", "connect"}
    assert shared <= set(re.findall(r"^(?:def )?(\w+)", ours[0], re.M))


@EACH
def test_script_is_small_and_stands_alone(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 210 and len(text.split()) <= 1000
    tree = ast.parse(text, feature_version=(3, 8))
    imported = {
        (getattr(node, "module", None) or name.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    assert imported - set(sys.stdlib_module_names) == {"pika"}
    header = '# requires-python = ">=3.8"\n# dependencies = ["pika>=1.3,<2"]\n'
    assert f"# /// script\n{header}# ///\n" in text, "as PEP 723 has it"


# AMQP_URL


@EACH
def test_help_and_import_need_no_valid_url(path: Path) -> None:
    code = f"import {path.stem}"
    with Script(path, "--help", url="x") as told, Script("-c", code, url="x") as module:
        assert told.wait() == module.wait() == 0
    assert f"python3 {path.name}" in told.out and "AMQP_URL" in told.out
    assert module.lines == []


@pytest.mark.parametrize("url", [
    "http://me:s3cret@host/", "me:s3cret@host", "amqp:/me:s3cret@host", "amqp://down,",
    "amqp://me:s3cret@host:port/", "amqp://me:s3cret@host:99999/", "amqp://me:s3c?ret@h",
    "amqp://me:[s3cret]@host:x", "amqp://me:s3cret@host:5672/?nonsense=1",
    "amqp://localhost,http://me:s3cret@host", "amqps://me:s3cret@host/?ssl_options={",
])  # fmt: skip
@EACH
def test_invalid_url_is_refused_and_not_shown(path: Path, url: str) -> None:
    with Script(path, url=url) as script:
        assert script.wait() == 1
    assert "AMQP_URL must look like amqp://USER:PASSWORD@HOST:5672/" in script.lines[-1]
    assert "s3c" not in script.out and "Traceback" not in script.out


def test_nodes_are_tried_in_turn(broker: Broker) -> None:
    for path in BOTH:
        script = works(path, url=f"{nowhere()},{broker.url()}")
        assert "trying again" not in script.out


# Connecting


@EACH
def test_tries_again_after_a_pause(broker: Broker, path: Path) -> None:
    with Network(broker.port) as network:
        network.cut_at = b"AMQP"  # the first bytes of a connection
        with Script(path, url=network.url()) as script:
            script.wait_for("trying again")
            first, begin = network.connections, script.arrivals[0]
            wait_until(lambda: network.connections >= first + 3, "three more attempts")
            script.signal()
            assert script.wait() == (1 if path == PRODUCER else 0)
        assert script.arrivals[-1] - begin > 1
    assert troubles(script)
    end = "0 of 5 orders stored. .*: SAMPLES:1" if path == PRODUCER else "Stopped"
    assert re.fullmatch(f".{{24}}{end}", script.lines[-1])


def test_both_wait_for_the_broker(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    with consumer(broker) as worker, changed("patient_producer", url=broker.url()) as sender:
        for script in (worker, sender):
            script.wait_for(f"guest@127.0.0.1:{broker.port}: Connection refused. Is it running")
        with running(broker):
            assert sender.wait() == 0, sender
            worker.wait_for("Processed ORD-005")
            worker.stop()
    assert troubles(worker) and troubles(sender)


HOPELESS = {
    "wrong password": ({"user": "guest:s3cret"}, "ACCESS_REFUSED - Login was refused"),
    "unknown vhost": ({"vhost": "shop"}, "vhost shop not found"),
    "no permission": ({"user": "nobody:s3cret"}, "ACCESS_REFUSED - .*'orders'"),
    "other queue": ({}, "PRECONDITION_FAILED - .*'orders.dead'"),
    "somebody's queue": ({}, "RESOURCE_LOCKED - .*'orders'"),
}


@pytest.mark.parametrize("reason", HOPELESS)
@EACH
def test_what_waiting_does_not_mend_ends_it_at_once(
    broker: Broker, channel: Any, path: Path, reason: str
) -> None:
    options, told = HOPELESS[reason]
    if reason == "other queue":
        channel.queue_declare("orders.dead", durable=True)
    if reason == "somebody's queue":
        channel.queue_declare("orders", exclusive=True)
    with Script(path, url=broker.url(**options)) as script:
        assert script.wait() == 1
    assert re.search(rf"^RabbitMQ at \w+@127.0.0.1:{broker.port}: .*{told}", script.out, re.M)
    assert len(script.lines) == (2 if path == PRODUCER else 1), script
    assert "s3cret" not in script.out


@EACH
def test_queue_that_it_may_not_use_ends_it_at_once(broker: Broker, path: Path) -> None:
    """RabbitMQ lets it declare what is there, but neither publish nor consume."""
    works(PRODUCER, url=broker.url())
    with Script(path, url=broker.url("declarer:s3cret")) as script:
        assert script.wait() == 1
    assert "ACCESS_REFUSED" in script.lines[-1] and "Traceback" not in script.out


def test_the_documented_permissions_are_enough(broker: Broker) -> None:
    for path in BOTH:
        works(path, url=broker.url("documented:s3cret"))


# TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the certificates of a server and of two authorities."""
    folder = tmp_path_factory.mktemp("authority")
    ours, strangers = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(folder / "ca.pem"))
    strangers.cert_pem.write_to_path(str(folder / "stranger.pem"))
    server = ours.issue_cert("localhost").private_key_and_cert_chain_pem
    server.write_to_path(str(folder / "server.pem"))
    return folder


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, authority: Path) -> Iterator[tuple[Broker, int]]:
    """A node with TLS, for a user with a secret, and its port."""
    port = free_ports(1)[0]
    config = f"""
        default_user = shop
        default_pass = s3cret,p4ss/w0rd
        listeners.ssl.1 = 127.0.0.1:{port}
        ssl_options.cacertfile = {authority}/ca.pem
        ssl_options.certfile = {authority}/server.pem
        ssl_options.keyfile = {authority}/server.pem
    """
    broker = Broker(tmp_path_factory.mktemp("guarded"), config)
    with running(broker):
        yield broker, port


USER = "shop:s3cret%2Cp4ss%2Fw0rd"


def test_work_over_tls_with_a_password_that_nobody_sees(guarded: tuple[Broker, int], authority: Path) -> None:
    url = f"amqps://{USER}@localhost:{guarded[1]}"
    for path in BOTH:
        script = works(path, url=url, SSL_CERT_FILE=str(authority / "ca.pem"))
        assert not re.search("s3cret|p4ss|w0rd", script.out)


@pytest.mark.parametrize("host, ca", [("localhost", "stranger"), ("127.0.0.1", "ca")])
@EACH
def test_certificate_that_does_not_verify_ends_it(
    guarded: tuple[Broker, int], authority: Path, path: Path, host: str, ca: str
) -> None:
    url = f"amqps://{USER}@{host}:{guarded[1]}"
    with Script(path, url=url, SSL_CERT_FILE=str(authority / f"{ca}.pem")) as script:
        assert script.wait() == 1
    assert "CERTIFICATE_VERIFY_FAILED" in script.lines[-1]
    assert not re.search("Traceback|s3cret|p4ss|w0rd", script.out)
