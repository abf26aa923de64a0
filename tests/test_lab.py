"""The lab as a whole: both scripts together, docker-compose.yml and the demo."""

import re
import runpy
import shutil
import subprocess
import sys
import time
from signal import SIGINT, SIGKILL, SIGTERM

import pika
import pytest

import producer
from rig.node import LIMIT, connect
from rig.orders import SAMPLE_IDS, new_order, order_json, ready_and_consumers, store_messages
from rig.processes import CONSUMER, ENVIRONMENT, PRODUCER, ROOT, TESTS, WORKER, Program
from rig.proxy import BASIC_ACK, CONSUME_OK, PROTOCOL_HEADER, Proxy, cut

each_script = pytest.mark.parametrize("script", [PRODUCER, CONSUMER], ids=["producer", "consumer"])


@pytest.mark.parametrize("signum", [SIGKILL, SIGTERM], ids=["dies", "stops"])
def test_rabbitmq_that_ends_loses_no_order(signum, node, url, monkeypatch, caplog):
    """One order is worked on then, 20 wait, and the 50th of 100 is on its way."""
    cause = "WARNING Trying again: (?!ConnectionWrongState).*"  # not an error that follows it
    waiting = [f"WAITS-{number:03}" for number in range(1, 21)]
    sent = [f"SENT-{number:03}" for number in range(1, 101)]
    orders = [new_order(order_id) for order_id in sent]
    with connect(url) as connection:
        current = order_json("CURRENT", waits=True)
        store_messages(connection.channel(), current, *map(order_json, waiting))
    time.sleep(3)  # RabbitMQ before 4.3 can lose a queue that is not yet two seconds old
    with (
        Proxy(url, b"SENT-050", lambda: node.stop(signum)) as proxy,
        Program(WORKER, proxy.url, allowed=f"{cause}|ERROR RabbitMQ has cancelled.*") as consumer,
    ):
        consumer.wait_for("Works on 'CURRENT'")
        monkeypatch.setattr(producer, "RABBITMQ", pika.URLParameters(proxy.url))
        with pytest.raises(pika.exceptions.AMQPError):
            producer.publish(orders)
        assert caplog.text.count("RabbitMQ confirmed") == 49
        node.start()
        consumer.process.stdin.close()  # ends the work
        producer.publish(orders[49:])
        consumer.wait_for("Processed 'SENT-100'")
    assert consumer.count(cause), "the cause is not logged"
    assert sorted(consumer.order_ids("Processed")) == ["CURRENT", *sent, *waiting]


def test_demo_shows_five_orders_and_leaves_a_users_rabbitmq_alone(url, channel):
    store_messages(channel, order_json("MINE-1"), order_json("MINE-2"))
    with Program(TESTS / "programs/demo.py", url) as demo:
        assert demo.wait_for_exit() == 0
    assert demo.order_ids("RabbitMQ confirmed") == demo.order_ids("Processed") == SAMPLE_IDS
    assert ready_and_consumers(channel) == (2, 0)


def test_scripts_wait_while_rabbitmq_starts(url):
    """As in README.md, where Docker accepts a connection before RabbitMQ does, and cuts it."""
    with (
        Proxy(url, PROTOCOL_HEADER, cut) as to_receiver,
        Proxy(url, PROTOCOL_HEADER, cut) as to_sender,
        Program(WORKER, to_receiver.url) as receiver,
        Program(PRODUCER, to_sender.url) as sender,
    ):
        assert sender.wait_for_exit() == 0
        receiver.wait_for("Processed", times=5)
    assert sender.order_ids("RabbitMQ confirmed") == receiver.order_ids("Processed") == SAMPLE_IDS
    assert sender.count("Connecting") == receiver.count("Connecting") == 1


@each_script
def test_ctrl_c_ends_the_wait_for_an_answer(script, url):
    """No order is called confirmed, and no consumer waiting, before RabbitMQ has said so."""
    answer = BASIC_ACK if script == PRODUCER else CONSUME_OK
    with (
        Proxy(url, answer, lambda: time.sleep(LIMIT)) as proxy,
        Program(script, proxy.url) as process,
    ):
        assert proxy.triggered.wait(LIMIT)
        process.process.send_signal(SIGINT)
        assert process.wait_for_exit() == -SIGINT
    assert len(process.checked_records()) == process.count("Connecting") == 1


@each_script
def test_default_connection_leads_to_docker_compose(script, monkeypatch):
    """RabbitMQ may need half a minute to start, and may block the producer for a minute."""
    monkeypatch.delenv("AMQP_URL")
    found = runpy.run_path(str(script))["RABBITMQ"]
    expected = pika.URLParameters("amqp://guest:guest@127.0.0.1:5672")
    expected.connection_attempts, expected.retry_delay = 10, 3
    if script == PRODUCER:
        expected.blocked_connection_timeout = 60
    for name in pika.connection.Parameters.__slots__:
        assert getattr(found, name) == getattr(expected, name), name


@each_script
def test_script_can_be_copied_alone(script, tmp_path):
    shutil.copy(script, tmp_path)
    command = [sys.executable, "-c", f"import {script.stem}"]
    subprocess.run(command, cwd=tmp_path, env={**ENVIRONMENT, "PYTHONPATH": ""}, check=True)


def test_docker_compose_keeps_orders_and_lets_no_other_computer_in():
    compose = (ROOT / "docker-compose.yml").read_text("utf-8")
    volume, *ports = re.findall(r"(?m)^      - (\S+)", compose)
    assert volume == "rabbitmq-data:/var/lib/rabbitmq"
    assert ports == ['"127.0.0.1:5672:5672"', '"127.0.0.1:15672:15672"']
    assert "\n    hostname: rabbitmq\n" in compose and "\n    stop_grace_period: 1m\n" in compose
    assert re.findall(r"(?m)^\w+", compose) == ["services", "volumes"]  # 1.29 knows no `name`
