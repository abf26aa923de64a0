"""What both scripts have to do with RabbitMQ and a user."""

import os
import runpy
import shutil
import subprocess
import sys
from signal import SIGINT, SIGTERM

import pika
import pytest

from rig.network import BASIC_ACK, CONSUME_OK, PROTOCOL_HEADER, Network
from rig.orders import SAMPLE_IDS
from rig.processes import CONSUMER, PRODUCER, PROGRAMS_OWN, WORKER, Program

AMQPS = "amqps://shop:%2F@rabbitmq.example:5/%2F?heartbeat=9&blocked_connection_timeout=9"
each_script = pytest.mark.parametrize("script", [PRODUCER, CONSUMER], ids=["producer", "consumer"])


@each_script
@pytest.mark.parametrize("amqp_url", [None, AMQPS])
def test_connection_is_as_amqp_url_says(script, amqp_url, monkeypatch):
    """Without AMQP_URL, to what docker-compose.yml starts. All limits but these are pika's."""
    monkeypatch.delenv("AMQP_URL")
    if amqp_url:
        monkeypatch.setenv("AMQP_URL", amqp_url)
    given = []

    def connect(*arguments, **named):
        given.extend([*arguments, *named.values()])
        raise OSError if script == PRODUCER else KeyboardInterrupt

    monkeypatch.setattr("pika.BlockingConnection", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)  # in no way to the user's RabbitMQ
    monkeypatch.setattr("signal.signal", lambda number, reaction: None)
    monkeypatch.delattr("time.sleep")  # nothing waits before
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        runpy.run_path(str(script), run_name="__main__")
    (found,) = given
    expected = pika.URLParameters(amqp_url or "amqp://guest:guest@127.0.0.1:5672")
    expected.connection_attempts = 10
    expected.retry_delay = 3
    if script == PRODUCER:
        expected.blocked_connection_timeout = 60
    for name, kind in vars(pika.connection.Parameters).items():
        if isinstance(kind, property) and name != "ssl_options":
            assert getattr(found, name) == getattr(expected, name), name
    assert not amqp_url or found.ssl_options.context.check_hostname


@each_script
def test_script_can_be_copied_alone(script, tmp_path):
    shutil.copy(script, tmp_path)
    environment = {**os.environ, "PYTHONPATH": ""}
    command = [sys.executable, "-c", f"import {script.stem}"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)


@each_script
def test_import_leaves_log_and_signals_alone(script, monkeypatch):
    with monkeypatch.context() as gone:
        for name in PROGRAMS_OWN:
            gone.delattr(name)
        runpy.run_path(str(script))


def test_scripts_wait_while_rabbitmq_starts(url):
    """As in README.md, where Docker accepts a connection before RabbitMQ does, and cuts it."""
    with (
        Network(url, PROTOCOL_HEADER) as one,
        Network(url, PROTOCOL_HEADER) as two,
        Program(WORKER, one.url) as consumer,
        Program(PRODUCER, two.url) as producer,
    ):
        assert producer.wait() == 0
        consumer.wait_for("Processed", times=5)
    assert producer.orders("RabbitMQ confirmed") == consumer.orders("Processed") == SAMPLE_IDS
    assert producer.count("Connecting") == consumer.count("Connecting") == 1


@each_script
@pytest.mark.parametrize("connecting", [True, False])
@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_signal_ends_the_wait_for_an_answer(script, connecting, number, url):
    """No order is called confirmed, and no consumer waiting, before RabbitMQ has said so."""
    answer = BASIC_ACK if script == PRODUCER else CONSUME_OK
    key = PROTOCOL_HEADER if connecting else answer
    with Network(url, key, fault=Network.hold) as network, Program(script, network.url) as process:
        process.wait_until(network.key_came.is_set, "bytes to hold back")
        process.kill(number)
    assert process.count("") == process.count("Connecting") == 1
