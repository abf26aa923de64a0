"""What both scripts have to do with a broker, a user and each other."""

import ast
import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import RIGHTS
from rig.broker import Broker, running
from rig.network import Network
from rig.orders import QUEUES
from rig.scripts import CONSUMER, PATIENT, PRODUCER, ROOT, Script, consumer, producer

EACH = pytest.mark.parametrize("start", [producer, consumer])


def finish(start: Any, script: Script) -> None:
    """Let a script do its work: publish five orders, or process them."""
    if start is consumer:
        script.wait_for("Processed 'ORD-005'")
        script.signal()
    assert script.wait() == 0, script


# Their text


def test_what_both_must_agree_on_is_the_same_word_for_word() -> None:
    ours, theirs = (
        re.search(r"^# Keep all down.*?\n    return order\n", path.read_text(), re.S | re.M)
        for path in (PRODUCER, CONSUMER)
    )
    assert ours and theirs and ours[0] == theirs[0]
    names = {"RABBITMQ", "QUEUE", "DEAD_LETTER_QUEUE", "QUEUE_ARGUMENTS", "parse_order"}
    assert set(re.findall(r"^(?:def )?(\w+)", ours[0], re.M)) == names


@pytest.mark.parametrize("path", [PRODUCER, CONSUMER], ids=lambda path: path.stem)
def test_script_is_small_and_stands_alone(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 140 and len(text.split()) <= 600
    imported = {
        (getattr(node, "module", None) or name.name).partition(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    assert imported - set(sys.stdlib_module_names) == {"pika"}


# The queues, and where they are


def test_queues_are_declared_as_documented_by_a_user_with_the_documented_rights(
    broker: Broker,
) -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert ", ".join(f"{right} `{pattern}`" for right, pattern in RIGHTS.items()) in readme
    for start in (producer, consumer):
        with start(broker.url("documented:s3cret")) as script:
            finish(start, script)
    rows = broker.rabbitctl_output(
        "-q", "list_queues", "--formatter", "json", "name", "durable", "arguments"
    )
    found = {row["name"]: row for row in json.loads(rows)}
    assert {name: row["durable"] for name, row in found.items()} == dict.fromkeys(QUEUES, True)
    for name, row in found.items():
        assert {key: value for key, _, value in row["arguments"]} == QUEUES[name]


@pytest.mark.parametrize("module", ["producer", "consumer"])
def test_default_url_is_the_one_of_docker_compose(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMQP_URL", raising=False)
    code = f"from {module} import RABBITMQ as r\n"
    code += (
        "print(r.host, r.port, r.virtual_host, r.credentials.username, r.credentials.password)\n"
    )
    code += "print(r.heartbeat, r.blocked_connection_timeout)"
    with Script("-c", code) as script:
        assert script.wait() == 0
    assert script.lines == ["localhost 5672 / guest guest", "None None"]


# Whatever goes wrong, they say it in one line and try again a second later


@EACH
def test_attempts_are_a_second_apart(start: Any) -> None:
    with Network() as network, start(network) as script:
        script.wait_for("Error", times=8)
    times = network.connected[:8]
    assert 7 <= times[-1] - times[0] < 7 * 1.9
    assert len(script.lines) - len(script.seen("(Error)")) == (1 if start is producer else 0)


@pytest.mark.parametrize(
    "url, error",
    [
        ("amqp://nobody.invalid", "gaierror"),
        ("amqp://127.0.0.1:{port}/?stack_timeout=1", "StackTimeout"),
    ],
)
@EACH
def test_error_that_is_none_of_amqp_is_no_end(start: Any, url: str, error: str) -> None:
    """The host is unknown, or RabbitMQ is frozen: it lets us connect and stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with start(url.format(port=silent.getsockname()[1])) as script:
            script.wait_for(error, times=2)
    assert "Traceback" not in script.out


def test_whoever_mends_the_cause_need_not_start_them_again(tmp_path: Path) -> None:
    """RabbitMQ is not up yet, then knows no such user, then has the queue with other arguments."""
    broker = Broker(tmp_path)
    url = broker.url("late:s3cret")
    # Patient, as this node may boot slowly; the consumer is so by itself.
    with producer(url, change=PATIENT) as sender, consumer(url) as worker:
        scripts = (sender, worker)

        def both_say(error: str) -> None:
            for script in scripts:
                script.wait_for(error)

        both_say("ConnectionRefusedError")
        with running(broker), broker.connect() as connection:
            channel = connection.channel()
            channel.queue_declare("orders", durable=True)
            both_say("ACCESS_REFUSED")
            broker.rabbitctl_output("add_user", "late", "s3cret")
            broker.rabbitctl_output("set_permissions", "late", ".*", ".*", ".*")
            both_say("PRECONDITION_FAILED")
            channel.queue_delete("orders")
            finish(producer, sender)
            finish(consumer, worker)
    for script in scripts:
        assert "s3cret" not in script.out and "Traceback" not in script.out
        assert all(re.match(r"\d{4}-\d\d-\d\d ", text) for text in script.lines), "one line each"
