"""What both scripts have to do with a broker, a user and each other."""

import json
import re
import socket
import sys
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import pytest
import trustme

from rig.broker import Broker, free_ports, running, wait_until
from rig.network import Network
from rig.orders import QUEUES, line, put, ready
from rig.scripts import CONSUMER, PATIENT, PRODUCER, Script, consumer, producer, start

EACH = pytest.mark.parametrize("script", [producer, consumer])


def let_it_do_its_work(script: Any, process: Script) -> None:
    """Let a script publish the five samples, or process them; it has to end well."""
    if script is consumer:
        process.wait_for("Processed 'ORD-005'")
        process.signal()
    assert process.wait() == 0, process


def test_what_both_must_agree_on_is_the_same_word_for_word() -> None:
    ours, theirs = (
        re.search(r"^# From here to.*?\n    return order\n", path.read_text(), re.S | re.M)
        for path in (PRODUCER, CONSUMER)
    )
    assert ours and theirs and ours[0] == theirs[0]
    names = {"RABBITMQ", "QUEUE", "DEAD_LETTER_QUEUE", "QUEUE_ARGUMENTS", "parse_order"}
    assert set(re.findall(r"^(?:def )?(\w+)", ours[0], re.M)) == names


@pytest.mark.parametrize("path", [PRODUCER, CONSUMER], ids=lambda path: path.stem)
def test_script_is_small_and_stands_alone(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 145 and len(text.split()) <= 740
    imported = re.findall(r"^\s*(?:import|from) (\w+)", text, re.M)
    assert set(imported) - set(sys.stdlib_module_names) == {"pika"}


# The queues, and the connection


def test_queues_are_declared_as_documented_by_a_user_with_the_documented_rights(
    broker: Broker,
) -> None:
    for script in (producer, consumer):
        with script(broker.url("documented:s3cret")) as process:
            let_it_do_its_work(script, process)
    rows = broker.rabbitctl_output(
        "list_queues", "--formatter", "json", "name", "durable", "arguments"
    )
    found = {row["name"]: row for row in json.loads(rows)}
    assert {name: row["durable"] for name, row in found.items()} == dict.fromkeys(QUEUES, True)
    for name, row in found.items():
        assert {key: value for key, _, value in row["arguments"]} == QUEUES[name]


SHOW = """
def show(r):
    user = r.credentials
    print(r.host, r.port, r.virtual_host, user.username, user.password, bool(r.ssl_options))
    print(r.heartbeat, r.blocked_connection_timeout, flush=True)
    raise SystemExit
script.pika.BlockingConnection = show
"""


@pytest.mark.parametrize("path", [PRODUCER, CONSUMER], ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "url, where",
    [
        (None, "localhost 5672 / guest guest False"),
        ("amqps://me:p%40s@host:1/v?heartbeat=7", "host 1 v me p@s True"),
    ],
)
def test_connection_is_opened_as_amqp_url_says(path: Path, url: str | None, where: str) -> None:
    """By default with what docker-compose.yml starts, and without any other limit in time."""
    options = {"AMQP_URL": url} if url else {}
    with start(path, None, change=SHOW, **options) as process:
        process.wait()
    assert process.lines[-2:] == [where, f"{7 if url else None} None"]


@EACH
def test_all_it_says_goes_to_standard_error(script: Any, broker: Broker, channel: Any) -> None:
    put(channel, line("A"), b"no order")
    with script(broker, stderr=DEVNULL) as process:
        if script is consumer:
            wait_until(lambda: ready(channel, "orders.dead") == 1, "both are done")
            process.signal()
        assert process.wait() == 0
    assert process.lines == []


# Whatever goes wrong, they say it in one line and try again a second later


@EACH
def test_attempts_are_a_second_apart(script: Any) -> None:
    with Network() as network, script(network) as process:
        process.wait_for("Error", times=8)
    moments = [moment for _, moment in process.seen("(Error)")]
    assert 7 <= moments[7] - moments[0] < 7 * 1.5
    assert len(network.connected) <= len(moments) + 1, "one each, and one as it is killed"
    assert len(process.lines) - len(moments) == (1 if script is producer else 0)


@pytest.mark.parametrize(
    "url, error",
    [
        ("amqp://nobody.invalid", "gaierror"),
        ("amqp://127.0.0.1:{port}/?stack_timeout=1", "StackTimeout"),
    ],
)
@EACH
def test_error_that_is_none_of_amqp_is_no_end(script: Any, url: str, error: str) -> None:
    """The host is unknown, or RabbitMQ is frozen: it lets us connect and stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with script(url.format(port=silent.getsockname()[1])) as process:
            process.wait_for(error, times=2)
    assert "Traceback" not in process.out


def test_whoever_mends_the_cause_need_not_start_them_again(tmp_path: Path) -> None:
    """RabbitMQ is not up yet, then knows no such user, then has the queue with other arguments.

    They connect by TLS, with a password that has an "@".
    """
    authority, (port,) = trustme.CA(), free_ports(1)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "pem")
    tls = f"listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {tmp_path}/ca.pem\n"
    tls += f"ssl_options.certfile = {tmp_path}/pem\nssl_options.keyfile = {tmp_path}/pem\n"
    broker = Broker(tmp_path / "node", tls)
    where: dict = {
        "where": f"amqps://late:p%40s@localhost:{port}",
        "SSL_CERT_FILE": tmp_path / "ca.pem",
    }
    # Patient, as this node may boot slowly; the consumer is so by itself.
    with producer(**where, change=PATIENT) as sender, consumer(**where) as worker:
        scripts = (sender, worker)

        def both_say(error: str) -> None:
            for script in scripts:
                script.wait_for(error)

        both_say("ConnectionRefusedError")
        with running(broker), broker.connect() as connection:
            channel = connection.channel()
            channel.queue_declare("orders", durable=True)
            both_say("ACCESS_REFUSED")
            broker.rabbitctl_output("add_user", "late", "p@s")
            broker.rabbitctl_output("set_permissions", "late", ".*", ".*", ".*")
            both_say("PRECONDITION_FAILED")
            channel.queue_delete("orders")
            let_it_do_its_work(producer, sender)
            let_it_do_its_work(consumer, worker)
    assert len(worker.seen("(Waiting for orders)")) == 1, "said when it does"
    for script in scripts:
        assert "p@s" not in script.out and "p%40s" not in script.out
        assert all(re.match(r"\d{4}-\d\d-\d\d ", text) for text in script.lines), "one line each"
