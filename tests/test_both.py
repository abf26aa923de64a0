"""What both scripts have to do with RabbitMQ and a user."""

import re
import runpy
import sys
from signal import SIGINT, SIGTERM

import pika
import pytest

from rig.network import BASIC_ACK, CONSUME_OK, Network
from rig.orders import SAMPLE_IDS
from rig.processes import CONSUMER, PRODUCER, WORKER, Program

each_script = pytest.mark.parametrize("script", [PRODUCER, CONSUMER], ids=["producer", "consumer"])


@each_script
def test_script_runs_where_only_pika_is_installed(script):
    """It can be copied alone."""
    modules = re.findall(r"(?m)^ *(?:import|from) (\w+)", script.read_text("utf-8"))
    assert {*modules} - {"pika"} <= sys.stdlib_module_names


@each_script
@pytest.mark.parametrize(
    "amqp_url", [None, "amqps://shop:%2F@rabbitmq.example:5/%2F?heartbeat=600"]
)
def test_connection_is_as_amqp_url_says(script, amqp_url, monkeypatch):
    """Without AMQP_URL, to what docker-compose.yml starts. All limits but two are pika's."""

    def connect(connection, parameters):
        raise KeyboardInterrupt(parameters)  # which `except Exception` does not catch

    monkeypatch.setattr("socket.socket", None)  # nothing may reach a user's RabbitMQ
    monkeypatch.delattr("time.sleep")  # nothing may be tried again
    monkeypatch.setattr("pika.BlockingConnection.__init__", connect)
    monkeypatch.setattr("signal.signal", lambda number, reaction: None)
    monkeypatch.delenv("AMQP_URL")
    if amqp_url:
        monkeypatch.setenv("AMQP_URL", amqp_url)
    with pytest.raises(KeyboardInterrupt) as caught:
        runpy.run_path(str(script), run_name="__main__")
    (found,) = caught.value.args
    expected = pika.URLParameters(amqp_url or "amqp://guest:guest@127.0.0.1:5672")
    expected.connection_attempts = 10
    expected.retry_delay = 3
    for name in {*pika.connection.Parameters.__slots__} - {"_ssl_options"}:
        assert getattr(found, name) == getattr(expected, name), name
    if amqp_url:
        assert found.ssl_options.context.check_hostname


@pytest.mark.parametrize(
    ("script", "answer"),
    [(PRODUCER, BASIC_ACK), (CONSUMER, CONSUME_OK)],
    ids=["confirmation", "subscription"],
)
@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_signal_ends_the_silent_wait_for_an_answer(script, answer, number, url, channel):
    """No order is called stored, and no consumer waiting, before RabbitMQ has said so."""
    with Network(url, answered={answer: None}) as network, Program(script, network.url) as process:
        process.wait_until(lambda: answer in network.answered, "RabbitMQ's answer")
        process.kill(number)
    assert process.count("") == process.count("Connecting") == 1


def test_scripts_wait_while_rabbitmq_starts(url, channel):
    """As in README.md, where Docker accepts and resets connections until RabbitMQ is there."""
    with Network(url) as one, Network(url) as two:
        one.is_open = two.is_open = False
        with Program(WORKER, one.url) as consumer, Program(PRODUCER, two.url) as producer:
            consumer.wait_until(lambda: one.resets >= 2, "two attempts")
            producer.wait_until(lambda: two.resets >= 2, "two attempts")
            one.is_open = two.is_open = True
            assert producer.wait() == 0
            consumer.wait_for("Processed", times=5)
    assert producer.orders("Stored") == consumer.orders("Processed") == SAMPLE_IDS
    assert producer.count("Connecting") == consumer.count("Connecting") == 1
