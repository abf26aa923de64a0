"""What both scripts have to do with a broker, a user and each other."""

import re
import socket
import sys
import unicodedata
from collections.abc import Callable
from functools import partial
from subprocess import DEVNULL

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

from rig.changes import connection_settings, orders_are, show_connection, work_is_nothing
from rig.network import Network
from rig.node import SPEED, Node, wait_until
from rig.orders import QUEUES, order_json, put, ready_count
from rig.scripts import ROOT, Program, nowhere, start_consumer, start_producer

Start = Callable[..., Program]
each = pytest.mark.parametrize(
    "start", [start_producer, start_consumer], ids=["producer", "consumer"]
)


# What they have in common


def test_both_declare_the_queue_in_the_same_words() -> None:
    first, second = (
        re.search(r"^RABBITMQ = .*?^\}\n", (ROOT / script).read_text(), re.S | re.M)
        for script in ("producer.py", "consumer.py")
    )
    assert first and second
    assert first[0] == second[0]
    assert re.findall(r"^\w+", first[0], re.M) == ["RABBITMQ", "QUEUE", "QUEUE_ARGUMENTS"]


@pytest.mark.parametrize("script", ["producer.py", "consumer.py"])
def test_script_needs_pika_alone(script: str) -> None:
    imported = re.findall(r"^\s*(?:import|from) (\w+)", (ROOT / script).read_text(), re.M)
    assert set(imported) - set(sys.stdlib_module_names) == {"pika"}


@each
@pytest.mark.parametrize("user", ["guest:guest", "documented:s3cret"])
def test_queues_are_declared_as_documented(
    start: Start, user: str, node: Node, channel: Channel
) -> None:
    """By a user with all rights, and by one with those that README asks for."""
    with start(node.url(user)) as process:
        process.wait_for("Stored 'ORD-005'|Waiting for orders")
        if start is start_consumer:
            put(channel, order_json("A"))
            process.wait_for("Received 'A'")
    declared = ["orders"] if start is start_producer else ["orders", "orders.dead"]
    for queue in declared:  # RabbitMQ refuses to declare it again with other arguments
        channel.queue_declare(queue, passive=True)
        channel.queue_declare(queue, durable=True, arguments=QUEUES[queue])


# The command line


@pytest.mark.parametrize("script", ["producer.py", "consumer.py"])
def test_help_shows_what_the_script_does_and_ends(script: str) -> None:
    with Program(ROOT / script, "--help", environment={"AMQP_URL": nowhere()}) as program:
        assert program.wait() == 0
    text = " ".join(program.out.split())
    assert f"python3 {script}" in text
    assert "AMQP_URL" in text
    assert "ERROR" not in text, "it has not tried to connect"


@pytest.mark.parametrize("script", ["producer.py", "consumer.py"])
def test_other_arguments_are_an_error(script: str) -> None:
    with Program(ROOT / script, "orders.jsonl", environment={"AMQP_URL": nowhere()}) as program:
        assert program.wait() == 2
    assert "unrecognized arguments: orders.jsonl" in program.lines[-1]
    assert "ERROR" not in program.out, "it has not tried to connect"


# What they say


@each
def test_all_it_says_goes_to_standard_error(start: Start, node: Node, channel: Channel) -> None:
    put(channel, b"no order")
    with start(node, stderr=DEVNULL) as process:
        if start is start_consumer:
            wait_until(lambda: ready_count(channel, "orders.dead") == 1, "it is rejected")
            process.signal()
        assert process.wait() == 0
    assert process.lines == []


CRAFTED = ["\x1b[2J", "\x9b31m", "A\x85\u2028\u2029Z", "\u202eDEGROF\u202c", "A\x00\x08"]
CRAFTED += [f"A{end}2026-11-25 20:30:15,297 INFO Processed FORGED" for end in "\n\r"]


def test_crafted_order_cannot_forge_a_log_line_nor_steer_the_terminal(
    node: Node, channel: Channel
) -> None:
    orders_by_id = partial(orders_are, order_ids=CRAFTED)
    orders_by_customer = [order_json("A", customer=text) for text in CRAFTED]
    invalid = [order_json("A", amount=text) for text in CRAFTED]
    invalid += [text.encode() for text in CRAFTED]
    put(channel, *orders_by_customer, *invalid)
    with start_producer(node, orders_by_id) as producer:
        assert producer.wait() == 0
    put(channel, order_json("LAST"))
    with start_consumer(node, work_is_nothing) as consumer:
        consumer.wait_for("Processed 'LAST'")
        consumer.stop()
    assert len(producer.lines) == len(CRAFTED) + 1
    assert consumer.count("INFO Received") == 2 * len(CRAFTED) + 1
    assert consumer.count("ERROR Rejected") == len(invalid)
    for line in producer.lines + consumer.lines:
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ [A-Z]", line), ascii(line)
        assert not [sign for sign in line if unicodedata.category(sign)[0] in "CZ" and sign != " "]
        assert line[24:] != "INFO Processed FORGED"


# The connection


@each
def test_connection_is_opened_as_amqp_url_says(start: Start) -> None:
    """With pika's own limits in time, and with pika's own check of certificates."""
    url = "amqps://me:p%40s@host:1/v?heartbeat=7"
    with start(url, show_connection) as process:
        assert process.wait() == 3
    assert {"host: 'host'", "port: 1", "virtual_host: 'v'", "heartbeat: 7"} < set(process.lines)
    assert {"credentials: me p@s", "ssl_options: None True 2"} < set(process.lines)
    for name, value in connection_settings(pika.URLParameters(url)).items():
        assert f"{name}: {value}" in process.lines


@each
def test_connection_is_by_default_to_guests_rabbitmq_on_this_machine(start: Start) -> None:
    """Which is what docker-compose.yml starts."""
    with start(None, show_connection) as process:
        process.wait()
    assert {"host: 'localhost'", "port: 5672", "virtual_host: '/'"} < set(process.lines)
    assert {"credentials: guest guest", "ssl_options: None"} < set(process.lines)
    for name, value in connection_settings(pika.URLParameters("amqp://localhost")).items():
        assert f"{name}: {value}" in process.lines


# Whatever goes wrong, they say it in one line and try again a second later


@each
def test_attempts_are_a_second_apart(start: Start) -> None:
    with Network() as network, start(network) as process:
        process.wait_for("ERROR", times=8)
    moments = [moment for _, moment in process.seen("(ERROR)")]
    assert 7 <= moments[7] - moments[0] < 7 + 4 / SPEED
    assert network.connections <= len(moments) + 1, "one each, and one as it is killed"
    others = len(process.lines) - len(moments)
    assert others == (1 if start is start_producer else 0), "a line each"


@each
def test_unknown_host_is_tried_again(start: Start) -> None:
    """An error that is none of AMQP's."""
    with start("amqp://nobody.invalid") as process:
        process.wait_for("ERROR gaierror", times=2)
    assert "Traceback" not in process.out


@each
def test_silent_rabbitmq_is_tried_again(start: Start) -> None:
    """As a frozen RabbitMQ is: it lets us connect, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with start(f"amqp://127.0.0.1:{port}/?stack_timeout=1") as process:
            process.wait_for("ERROR .*StackTimeout", times=2)
    assert "Traceback" not in process.out


@each
def test_wrong_password_is_told_and_not_shown(start: Start, node: Node) -> None:
    with start(node.url("guest:wr%40ng")) as process:
        process.wait_for("ERROR .*ACCESS_REFUSED", times=2)
    assert "wr@ng" not in process.out and "wr%40ng" not in process.out
    assert "Traceback" not in process.out


@each
def test_other_queue_is_told_until_it_is_deleted(
    start: Start, node: Node, channel: Channel
) -> None:
    """As a classic queue of that name, from another exercise, would be."""
    channel.queue_declare("orders", durable=True)
    with start(node) as process:
        process.wait_for("ERROR .*PRECONDITION_FAILED", times=2)
        assert "Traceback" not in process.out
        assert not re.search("Stored|Waiting", process.out)
        channel.queue_delete("orders")
        process.wait_for("Stored 'ORD-005'|Waiting for orders")
